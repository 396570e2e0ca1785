"""A small stand-in for Triton's ``triton_python_backend_utils``: models of a repository, by ONNX Runtime.

It has what ``export/triton/model.py`` uses, by the names and parameters of the real module, and holds every
tensor to what the called model's configuration says, as the server does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

TYPES = {"TYPE_FP32": "float32", "TYPE_INT64": "int64"}


@dataclass
class Tensor:
    _name: str
    _array: np.ndarray

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


@dataclass
class TritonError:
    _message: str

    def message(self) -> str:
        return self._message


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None

    def has_error(self) -> bool:
        return self.error is not None


@dataclass
class PreferredMemory:
    preferred_memory_type: int
    preferred_device_id: int


@dataclass
class Request:
    """What a client sends."""

    tensors: dict[str, np.ndarray]
    wanted: list[str] = field(default_factory=list)

    def requested_output_names(self) -> list[str]:
        return self.wanted


def module(repository: Path, parse: Callable[[str], Any], called: list[str]) -> ModuleType:
    """The module, serving the models in ``repository``.

    Args:
        parse: a configuration's text, as the message of Triton's schema.
        called: is given the name of each model that is run.
    """
    found = ModuleType("triton_python_backend_utils")

    class InferenceRequest:
        def __init__(
            self,
            *,
            model_name: str,
            requested_output_names: list[str],
            inputs: list[Tensor],
            preferred_memory: PreferredMemory,
        ) -> None:
            assert preferred_memory.preferred_memory_type == 0
            self._model, self._wanted, self._inputs = model_name, requested_output_names, inputs

        def exec(self) -> InferenceResponse:
            called.append(self._model)
            folder = repository / self._model
            config = parse((folder / "config.pbtxt").read_text())
            enum = config.DESCRIPTOR.file.enum_types_by_name["DataType"]
            types = {each.number: each.name for each in enum.values}
            expected = {each.name: (TYPES[types[each.data_type]], list(each.dims)) for each in config.input}
            arrays = {each.name(): each.as_numpy() for each in self._inputs}
            got = {name: (str(array.dtype), list(array.shape)) for name, array in arrays.items()}
            if got != expected:
                return InferenceResponse([], TritonError(f"expected {expected}, got {got}"))
            assert self._wanted == [each.name for each in config.output]
            session = onnxruntime.InferenceSession(
                (folder / "1" / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
            )
            outputs = session.run(self._wanted, arrays)
            return InferenceResponse([Tensor(*pair) for pair in zip(self._wanted, outputs, strict=True)])

    def output(response: InferenceResponse, name: str) -> Tensor:
        return next(tensor for tensor in response.output_tensors if tensor.name() == name)

    vars(found).update(
        Tensor=Tensor,
        TritonError=TritonError,
        TritonModelException=type("TritonModelException", (Exception,), {}),
        InferenceResponse=InferenceResponse,
        InferenceRequest=InferenceRequest,
        PreferredMemory=PreferredMemory,
        TRITONSERVER_MEMORY_CPU=0,
        get_input_tensor_by_name=lambda request, name: Tensor(name, request.tensors[name]),
        get_output_tensor_by_name=output,
    )
    return found
