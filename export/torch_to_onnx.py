"""One engine as ONNX bytes: exported, folded, simplified, checked, and stripped of the traces of its making.

The same module gives the same bytes, so that a file's hash changes only when its function does. A file holds
no stack trace, path or docstring, and its nodes are named by operator and order: ``Conv_0``, ``Conv_1``, …
"""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx
import onnxslim
import torch

from sdk.errors import EdgePurifyError

OPSET = 18
IR_VERSION = 10  # what TensorRT 10.3's parser and every ONNX Runtime from 1.18 read
REFUSALS = (torch.onnx.OnnxExporterError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError)


class ExportError(EdgePurifyError):
    """A model can't be exported, or a bundle can't be written."""


def engine_bytes(
    module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], *, output: str, name: str
) -> bytes:
    """Export ``module`` as it stands, in eval mode, with static shapes.

    Args:
        module: maps the inputs, in their order, to one tensor.
        inputs: example values by input name; their shapes become the engine's.
        output: name of the engine's output.
        name: the engine's id, which names the graph and the errors.

    Raises:
        ExportError: torch or ONNX refuses the module; the message holds their reason.
    """
    try:
        with _silence():
            # torch.onnx folds the batch norms into the convolutions; onnxslim removes what that leaves idle
            graph = onnxslim.slim(_trace(module, inputs, output)).graph
            model = onnx.shape_inference.infer_shapes(_clean_model(graph, name), strict_mode=True)
            onnx.checker.check_model(model, full_check=True)
    except REFUSALS as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise ExportError(
            f"{name}: {type(module).__name__} can't be exported to ONNX opset {OPSET}: {reason}"
        ) from error
    return bytes(model.SerializeToString(deterministic=True))


def _trace(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], output: str) -> onnx.ModelProto:
    program = torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=[output],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # None comes back only from the exporter without dynamo
    return program.model_proto


def _clean_model(graph: onnx.GraphProto, name: str) -> onnx.ModelProto:
    """A new model around ``graph``, so that nothing of the old one's header remains."""
    del graph.value_info[:]  # inferred again, under the names given here
    graph.name = name
    _strip(graph)
    _rename(graph)
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edge-purify",
    )


def _strip(message: Any) -> None:
    """Clear docstrings and metadata (torch keeps stack traces there) in ``message`` and all inside it."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in (
                value if hasattr(value, "__len__") else (value,)
            ):  # a repeated field, or a single message
                _strip(inner)


def _rename(graph: onnx.GraphProto) -> None:
    """Name every node, and the value it makes, by operator and order; keep inputs, outputs and weights."""
    kept = {value.name for value in graph.output}
    seen: Counter[str] = Counter()
    names: dict[str, str] = {}
    for node in graph.node:
        node.name = f"{node.op_type}_{seen[node.op_type]}"
        seen[node.op_type] += 1
        for place, value in enumerate(node.output):
            if value and value not in kept:
                names[value] = node.name if len(node.output) == 1 else f"{node.name}_{place}"
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep torch's notices (no torchvision, its own deprecations, graph dumps) off the user's terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
