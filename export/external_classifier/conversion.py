"""Bring a classifier to the form of an engine: one float32 image in, one row of float32 scores out.

Half and double precision become single precision, an integer input becomes a float one, a fixed batch becomes
one image, and an open size is closed. What results is compared with the file as it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.external_classifier.conventions import Conventions
from export.external_classifier.reading import (
    HALVES_AND_DOUBLES,
    INTEGERS,
    choose_output,
    first_line,
    maker_of,
    name_of,
    only_input,
    read_model,
    refusal,
    refuse_quantized,
)
from export.precision.ranges import session
from export.torch_to_onnx import ExportError
from sdk.arrays import FloatImage
from sdk.errors import UsageError

TOLERANCE = 1e-4  # of the scores' spread
HALF_TOLERANCE = 0.05  # the same, where the file computes in half precision

Arrays = list[npt.NDArray[Any]]


@dataclass(frozen=True)
class Prepared:
    """A classifier in the form of an engine, but for its conventions and names.

    Attributes:
        model: its graph, with a static input of one image.
        input: the input's name.
        output: the output's name.
        height, width: of its image.
        notes: what was changed, each as a short sentence.
        ends_in_sigmoid: whether a sigmoid makes the scores.
        content: the file's bytes.
    """

    model: onnx.ModelProto
    input: str
    output: str
    height: int
    width: int
    notes: tuple[str, ...]
    ends_in_sigmoid: bool
    content: bytes


def prepare(
    path: Path,
    conventions: Conventions,
    *,
    output: str | None,
    image_size: tuple[int, int] | None,
    samples: Callable[[int, int], FloatImage],
) -> Prepared:
    """Read and convert the classifier in ``path``.

    Args:
        path: an ONNX file; weights in files beside it are read too.
        conventions: how it wants its image.
        output: the value that holds its scores, where that isn't its only output.
        image_size: height and width, where the file leaves them open.
        samples: gives images (N, 3, H, W) in [0, 1] of a height and width, to compare on.

    Raises:
        UsageError: the file is no classifier of one image, or leaves open what must be given.
        ExportError: what it computes would change.
    """
    model, content = read_model(path)
    refuse_quantized(path, model)
    given = only_input(path, model)
    name = choose_output(path, model, output)
    original = onnx.ModelProto.FromString(model.SerializeToString())
    kind = given.type.tensor_type.elem_type
    if kind in INTEGERS and conventions.range != 255:
        raise refusal(
            path,
            f"it takes an image of {name_of(kind)}, whose white is 255",
            "give --range 255, with --mean and --std in that range",
        )
    notes = [] if output is None else [f"the scores are the value {name!r}"]
    kinds = {*_float_kinds(model), kind} - {TensorProto.FLOAT}
    if kinds:
        _widen(model)
        notes.append(f"{', '.join(sorted(map(name_of, kinds)))} became float32")
    batch, height, width = _fix_shape(path, given, conventions.layout, image_size)
    if batch > 1:
        _one_image(model, batch)
        notes.append(f"a batch of {batch} became one image")
    ends_in_sigmoid = maker_of(model, name) == "Sigmoid"
    prepared = Prepared(
        model, given.name, name, height, width, tuple(notes), ends_in_sigmoid, content=content
    )
    inputs = conventions.apply(samples(height, width))
    inputs = np.rint(inputs) if kind in INTEGERS else inputs
    found = _runs(path, model, given.name, inputs)
    shape = found[0].shape
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    if kinds or batch > 1:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        batches = [np.repeat(image[None].astype(dtype), batch, axis=0) for image in inputs]
        try:
            expected = run_all(path, original, given.name, batches)
        except UsageError:
            if not kinds or kinds & {TensorProto.FLOAT16, *INTEGERS}:
                raise
            # ONNX Runtime has few operators in double precision and bfloat16
            unheld = "not compared with the file, which ONNX Runtime can't run in its own precision"
            return replace(prepared, notes=(*prepared.notes, unheld))
        rows = [values.reshape(batch, -1)[0] for values in expected]
        is_half = TensorProto.FLOAT16 in kinds
        _compare(path, prepared, found, rows, tolerance=HALF_TOLERANCE if is_half else TOLERANCE)
    return prepared


def _float_kinds(model: onnx.ModelProto) -> set[int]:
    """The other floating-point types that a graph's weights, constants and casts have."""
    kinds = {weight.data_type for weight in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                kinds.add(attribute.t.data_type)
            if node.op_type == "Cast" and attribute.name == "to":
                kinds.add(attribute.i)
    return kinds & {*HALVES_AND_DOUBLES}


def _widen(model: onnx.ModelProto) -> None:
    """Make every float in the graph, and its input, a float32."""
    for weight in model.graph.initializer:
        _widen_tensor(weight)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES_AND_DOUBLES:
                attribute.i = TensorProto.FLOAT
    for value in model.graph.input:
        if value.type.tensor_type.elem_type in (*HALVES_AND_DOUBLES, *INTEGERS):
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in HALVES_AND_DOUBLES:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _fix_shape(
    path: Path, given: onnx.ValueInfoProto, layout: str, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """Make the input's shape static, of one image; the batch that it had, and its height and width."""
    dims = given.type.tensor_type.shape.dim
    channels, *sides = (1, 2, 3) if layout == "nchw" else (3, 1, 2)
    got = [dim.dim_value or dim.dim_param or "?" for dim in dims]
    if len(dims) != 4 or dims[channels].dim_value not in (-1, 0, 3):
        form = "(1, 3, H, W)" if layout == "nchw" else "(1, H, W, 3)"
        other = "nhwc" if layout == "nchw" else "nchw"
        raise refusal(
            path,
            f"expected an input {form} for --layout {layout}, got {got}",
            f"give --layout {other} if that is its order" if len(dims) == 4 else None,
        )
    batch = max(dims[0].dim_value, 1)
    fixed = tuple(max(dims[axis].dim_value, 0) for axis in sides)
    if image_size is None and 0 in fixed:
        raise refusal(
            path, f"it leaves the height and width of its image open: {got}", "give --image-size H,W"
        )
    height, width = image_size or fixed
    if any(side not in (0, asked) for side, asked in zip(fixed, (height, width), strict=True)):
        raise UsageError(
            f"--image-size {height},{width}: {path} takes images of {fixed[0]} x {fixed[1]} and no other",
            hint="leave --image-size out",
        )
    for axis, size in zip((0, channels, *sides), (1, 3, height, width), strict=True):
        dims[axis].dim_value = size
    return batch, height, width


def _one_image(model: onnx.ModelProto, batch: int) -> None:
    """Turn the ``batch`` that reshapes were exported for into 1; ``_compare`` tells whether that suffices."""
    shapes = {node.input[1] for node in model.graph.node if node.op_type in ("Reshape", "Expand")}
    for tensor in (*model.graph.initializer, *_constants(model)):
        values = numpy_helper.to_array(tensor)
        is_shape = values.dtype == np.int64 and values.ndim == 1 and len(values) and values[0] == batch
        if tensor.name in shapes and is_shape:
            changed = numpy_helper.from_array(np.concatenate([[1], values[1:]]), tensor.name)
            tensor.CopyFrom(changed)


def _constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                attribute.t.name = node.output[0]
                yield attribute.t


def _compare(path: Path, prepared: Prepared, found: Arrays, expected: Arrays, *, tolerance: float) -> None:
    """Hold the converted graph's scores to the file's.

    Raises:
        ExportError: they differ by more than ``tolerance`` of their spread.
    """
    got, wanted = (np.stack([row.ravel() for row in rows]).astype(np.float32) for rows in (found, expected))
    if got.shape != wanted.shape:
        what = f"{got.shape[1]} scores for an image, not {wanted.shape[1]}"
    else:
        spread = max(float(wanted.std()), float(np.abs(wanted).max()) * 0.01, 1e-6)
        off = float(np.abs(got - wanted).max()) / spread
        if off <= tolerance:
            return
        what = f"scores that are {off:.1%} of their spread off"
    raise ExportError(
        f"classifier {path}: converted ({'; '.join(prepared.notes)}), it gives {what}",
        hint="export it for one float32 image",
    )


def _runs(path: Path, model: onnx.ModelProto, name: str, inputs: FloatImage) -> Arrays:
    return run_all(path, model, name, [image[None] for image in inputs])


def run_all(path: Path, model: onnx.ModelProto, name: str, values: Arrays) -> Arrays:
    """The model's output for each value of its input.

    Raises:
        UsageError: ONNX Runtime can't load it, or it doesn't run on them.
    """
    try:
        engine = session(model.SerializeToString(), str(path))
    except ExportError as error:
        reason = error.what.partition("can't load the converted graph: ")[2] or error.what
        raise refusal(
            path, f"ONNX Runtime can't load it: {reason}", "export it for one float32 image"
        ) from None
    except ValueError as error:  # a model of over 2 GiB can't be serialized
        raise refusal(path, f"it is too large for one ONNX file: {first_line(error)}") from None
    try:
        return [np.asarray(engine.run(None, {name: value})[0]) for value in values]
    except Exception as error:  # ONNX Runtime's own error classes share no narrower base
        raise refusal(
            path,
            f"it doesn't run on images of shape {list(values[0].shape)}: {' '.join(str(error).split())}",
            "give another --image-size if the file leaves it open, or export it for one float32 image",
        ) from error
