"""OpenVINO: a second runtime for CPUs, chosen by its name; the extra ``[openvino]`` brings it.

It is here because of INT8 on processors with VNNI. Measured with one thread on such a one, by
``benchmarks/openvino_cpu.py``: a frame's two engines take 0.60 times as long in its INT8 as in ONNX Runtime's
FP32, which is the best there, and are off ONNX Runtime's exact INT8 by 1.9e-3 (purified image) and 1e-7
(logits). In FP32 it takes 1.13 times as long.

Why it is set up so:

* Arithmetic is held to float32, INT8 layers aside. Left free, it takes bfloat16 where the processor has it,
  and logits are off by 3.9e-2. So FP16 engines compute in float32 here, with weights rounded to FP16.
* Its 8-bit kernels saturate without VNNI, as ONNX Runtime's optimized ones do. On the same processor with
  VNNI barred, INT8 is off the golden outputs by 0.023 (purified image) and 0.14 (logits) instead of 0.005 and
  0.07, and by more on noise. That is within the bounds that ``precision="auto"`` holds it to; what it costs
  in robustness there, ``edge-train evaluate --backend openvino --precision int8`` measures.
* Threads are not pinned: it would pin those of every engine to the same CPUs, whatever else runs there.
* Inputs and the output are bound once, to arrays that are copied into and out of: 170 microseconds a run
  where handing over the inputs takes 206.
* Its cache of compiled models would load six INT8 engines in 0.85 s instead of 2.1, but isn't used: it loads
  a damaged file as if well (a purified image was off by 0.04).
* Only its ONNX reader is used. Given a path, it would try those of other formats on a damaged file, which
  print.
* Its import would report itself to its makers over the network, through the package openvino-telemetry, which
  it works without: that is barred from the import.
"""

from __future__ import annotations

import sys
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np

from sdk.backends.interface import Float
from sdk.backends.sessions import EngineFile, Feeds, SessionBackend, Tensors, listed, one_line
from sdk.bundle import Bundle, Precision
from sdk.errors import BackendError, BundleError

EXTRA = "pip install 'edge-purify[openvino]'"


def _import_silent() -> Any:
    """The module ``openvino``, imported as where its telemetry isn't installed."""
    telemetry, absent = "openvino_telemetry", object()
    before: Any = sys.modules.get(telemetry, absent)
    sys.modules[telemetry] = None  # type: ignore[assignment]  # so that importing it fails
    try:
        return import_module("openvino")
    except (ImportError, OSError) as error:  # OSError: a shared library underneath is missing
        raise BackendError(f"backend openvino: can't be imported ({one_line(error)})", hint=EXTRA) from None
    finally:
        del sys.modules[telemetry]
        if before is not absent:
            sys.modules[telemetry] = before


openvino = _import_silent()
VERSION: str = openvino.__version__.partition("-")[0]


class OpenVinoBackend(SessionBackend["_Session"]):
    """A bundle's engines as models that OpenVINO compiled for this CPU.

    Args:
        bundle: a verified bundle.
        precision: "fp32", "fp16" or "int8"; every engine must have it.
        threads: of every engine; None takes one, or all that the process may use for an engine that gains
            by them.

    Raises:
        BackendError: an engine can't be loaded, doesn't run, or has other inputs or outputs than the bundle
            says.
    """

    name = "openvino"
    version = VERSION

    def __init__(self, bundle: Bundle, precision: Precision = "fp32", threads: int | None = None) -> None:
        self._core = openvino.Core()
        super().__init__(bundle, precision, threads)

    def compiled_models(self) -> tuple[list[Any], list[Any]]:
        """OpenVINO's ``CompiledModel`` of every purifier and every classifier, to look at their settings."""
        return [one.compiled for one in self._purifiers], [one.compiled for one in self._classifiers]

    def _open(self, file: EngineFile, threads: int) -> _Session:
        return _Session(file, self._core, _options(threads))


class _Session:
    """One compiled model with its one request; its errors name the engine."""

    def __init__(self, file: EngineFile, core: Any, options: dict[str, Any]) -> None:
        self._file = file
        try:
            reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(BytesIO(file.content())))
        except BundleError:
            raise
        except Exception as error:  # its error classes share no narrower base
            raise file.cannot_load("OpenVINO", error) from error
        file.check(_tensors(model.inputs, file.inputs), _tensors(model.outputs, file.outputs))
        try:
            self.compiled = core.compile_model(model, "CPU", options)
            self._request = self.compiled.create_infer_request()
        except Exception as error:
            raise file.cannot_load("OpenVINO", error) from error
        self._inputs = {name: self._bound(name, *kind) for name, kind in file.inputs.items()}
        ((name, kind),) = file.outputs.items()
        self._output = self._bound(name, *kind)

    def run(self, feeds: Feeds) -> Float:
        got = {name: (array.dtype.name, array.shape) for name, array in feeds.items()}
        if got != self._file.inputs:  # what is missing would keep the value of the last run
            raise self._file.failed(f"expected inputs {listed(self._file.inputs)}, got {listed(got)}")
        for name, array in feeds.items():
            np.copyto(self._inputs[name], array)
        try:
            self._request.infer()
        except Exception as error:
            raise self._file.failed(one_line(error)) from error
        output: Float = self._output.copy()  # the next run overwrites the bound array
        return output

    def _bound(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """A new array that is the request's tensor ``name``."""
        array = np.zeros(shape, dtype)
        self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return array


def _options(threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }


def _tensors(ports: list[Any], expected: Tensors) -> Tensors:
    """What a model's ports are; one may have several names, of which the one expected counts."""
    found: Tensors = {}
    for port in ports:
        known = [name for name in port.names if name in expected]
        dtype, shape = port.element_type.to_dtype().name, port.partial_shape
        found[known[0] if known else port.any_name] = (dtype, _lengths(shape))
    return found


def _lengths(shape: Any) -> tuple[int, ...]:
    """A shape's lengths, -1 where one isn't fixed; empty where not even their number is."""
    if shape.rank.is_dynamic:
        return ()
    return tuple(length.get_length() if length.is_static else -1 for length in shape)
