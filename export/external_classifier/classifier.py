"""Bring your own classifier: any ONNX file that maps one image to class scores, as a bundle's classifier.

Its own conventions (normalization, range, colour and axis order) go into the graph, so that it takes what
every engine
takes: float32 (1, 3, H, W), RGB in [0, 1].  There is no torch twin of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxslim
from onnx import TensorProto, helper, numpy_helper

from export.external_classifier.conventions import Conventions
from export.precision.graph import finished
from export.precision.ranges import session
from export.torch_to_onnx import OPSET, ExportError
from sdk.errors import UsageError

CLIPPED = 1e-12  # the least probability whose logarithm is taken
KEEP_VALUES = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
SUBGRAPHS = ("If", "Loop", "Scan")


class ForeignClassifier:
    """A classifier from an ONNX file.

    Args:
        path: the file.
        labels: one for each of its scores.
        conventions: how it wants its image.
        default_size: height and width of its images where the file leaves them open.

    Attributes:
        height, width: of its images.
        says: where it comes from, for the provenance.

    Raises:
        UsageError: the file is absent, or is no classifier of one image with as many classes as labels.
        ExportError: its graph can't be brought to this project's form.
    """

    def __init__(
        self, path: Path, labels: tuple[str, ...], conventions: Conventions, *, default_size: int
    ) -> None:
        self.path, self.labels, self.conventions = path, labels, conventions
        self.model = _read(path)
        self._input = _only_input(path, self.model)
        self.height, self.width = self._fix_shape(default_size)
        self._given = session(
            path.read_bytes() if not _has_external(path) else self.model.SerializeToString(), str(path)
        )
        self._check_scores()

    @property
    def says(self) -> dict[str, Any]:
        from sdk.bundle import sha256_of

        return {"file": self.path.name, "sha256": sha256_of(self.path), **vars(self.conventions)}

    @property
    def gives_probabilities(self) -> bool:
        """Whether a softmax makes the scores, so that their logarithm serves as logits.

        Between it and the output may stand operators that leave every value as it is.
        """
        makers = {value: node for node in self.model.graph.node for value in node.output}
        maker = makers.get(self.model.graph.output[0].name)
        while maker is not None and maker.op_type in KEEP_VALUES:
            maker = makers.get(maker.input[0])
        return maker is not None and maker.op_type == "Softmax"

    def classify(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (B, n_classes) of ``images`` (B, 3, H, W), RGB in [0, 1], by the file as it was given."""
        scores = np.concatenate([self._scores(image[None]) for image in images])
        return np.log(np.maximum(scores, np.float32(CLIPPED))) if self.gives_probabilities else scores

    def engine_bytes(self, name: str) -> bytes:
        """The classifier as an engine's ONNX file: input ``image``, output ``logits``.

        Raises:
            ExportError: an operator or the opset can't be brought to opset 18.
        """
        for node in self.model.graph.node:
            if node.domain not in ("", "ai.onnx") or node.op_type in SUBGRAPHS:
                operator = f"{node.domain}.{node.op_type}".lstrip(".")
                raise ExportError(
                    f"{self.path}: operator {operator}: expected ONNX's own operators without control flow; "
                    "export the classifier again without it"
                )
        try:
            model = (
                onnx.version_converter.convert_version(self.model, OPSET)
                if self._opset != OPSET
                else self.model
            )
            graph = onnxslim.slim(model).graph
        except Exception as error:  # the converter and the simplifier share no narrower base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ExportError(
                f"{self.path}: can't be brought from opset {self._opset} to {OPSET}: {reason}; "
                f"export the classifier again with opset {OPSET}"
            ) from error
        nodes, weights = _renamed(graph, self._input.name)
        front, front_weights = self.conventions.nodes()
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, self.height, self.width])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(self.labels)])]
        wrapped = helper.make_model(helper.make_graph([], name, inputs, outputs))
        back, back_weights = self._back()
        return finished(wrapped, [*front, *nodes, *back], [*front_weights, *weights, *back_weights])

    @property
    def _opset(self) -> int:
        return next(
            (int(entry.version) for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 0
        )

    def _back(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """From the classifier's ``scores`` to ``logits`` (1, n_classes)."""
        weights = [
            numpy_helper.from_array(np.array([1, len(self.labels)], np.int64), "back_shape"),
            numpy_helper.from_array(np.float32(CLIPPED), "back_least"),
        ]
        if not self.gives_probabilities:
            return [
                helper.make_node("Reshape", ["scores", "back_shape"], ["logits"], name="back_Reshape")
            ], weights
        return [
            helper.make_node("Reshape", ["scores", "back_shape"], ["back_0"], name="back_Reshape"),
            helper.make_node("Max", ["back_0", "back_least"], ["back_1"], name="back_Max"),
            helper.make_node("Log", ["back_1"], ["logits"], name="back_Log"),
        ], weights

    def _fix_shape(self, default_size: int) -> tuple[int, int]:
        """Make the input's shape static, of one image; its height and width."""
        dims = self._input.type.tensor_type.shape.dim
        channels, height, width = (1, 2, 3) if self.conventions.layout == "nchw" else (3, 1, 2)
        got = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        if len(dims) != 4 or dims[0].dim_value not in (0, 1) or dims[channels].dim_value not in (0, 3):
            form = "(1, 3, H, W)" if self.conventions.layout == "nchw" else "(1, H, W, 3)"
            raise UsageError(
                f"--classifier-onnx {self.path}: expected an input {form} for --layout "
                f"{self.conventions.layout}, got {got}"
            )
        dims[0].dim_value, dims[channels].dim_value = 1, 3
        for axis in (height, width):
            dims[axis].dim_value = dims[axis].dim_value or default_size
        return dims[height].dim_value, dims[width].dim_value

    def _check_scores(self) -> None:
        found = self._scores(np.full((1, 3, self.height, self.width), 0.5, np.float32))
        if found.shape != (1, len(self.labels)):
            raise UsageError(
                f"--classifier-onnx {self.path}: it gives {found.shape[1]} scores for an image, and --labels "
                f"has {len(self.labels)}; give one label a line, in the order of the scores"
            )

    def _scores(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            found = self._given.run(None, {self._input.name: self.conventions.apply(image)})
        except Exception as error:  # ONNX Runtime's own error classes share no narrower base
            reason = " ".join(str(error).split())
            raise UsageError(
                f"--classifier-onnx {self.path}: it doesn't run on one image: {reason}"
            ) from error
        return np.asarray(found[0], np.float32).reshape(1, -1)


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in ``path``, one a line.

    Raises:
        UsageError: it can't be read, or a line is empty.
    """
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(
            f"--labels {path}: can't be read: {reason}; give a text file, one label a line"
        ) from None
    if not labels or not all(labels):
        raise UsageError(f"--labels {path}: expected one label a line and no empty line")
    return labels


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise UsageError(f"--classifier-onnx {path}: no such file")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, ONNX's and the file system's errors alike
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--classifier-onnx {path}: not readable as an ONNX model: {reason}") from None
    return model


def _has_external(path: Path) -> bool:
    """Whether weights lie in files beside ``path``."""
    model = onnx.load(path, load_external_data=False)
    return any(weight.data_location == TensorProto.EXTERNAL for weight in model.graph.initializer)


def _only_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = [value.name for value in model.graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(
            f"--classifier-onnx {path}: expected one input and one output, "
            f"got inputs {[value.name for value in inputs]}, outputs {outputs}"
        )
    if inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)
        raise UsageError(
            f"--classifier-onnx {path}: expected a float32 input, got {kind}; export it in float32"
        )
    return inputs[0]


def _renamed(graph: onnx.GraphProto, given: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and weights under names that say operator and order: a file's own may hold paths and traces."""
    names = {given: "given", "": ""}
    weights = []
    for place, weight in enumerate(graph.initializer):
        names[weight.name] = f"weight_{place}"
        weights.append(numpy_helper.from_array(numpy_helper.to_array(weight), names[weight.name]))
    return [*_renamed_nodes(graph, names)], weights


def _renamed_nodes(graph: onnx.GraphProto, names: dict[str, str]) -> Iterator[onnx.NodeProto]:
    seen: Counter[str] = Counter()
    names |= {graph.output[0].name: "scores"}
    for node in graph.node:
        title = f"{node.op_type}_{seen[node.op_type]}"
        seen[node.op_type] += 1
        for place, value in enumerate(node.output):
            if value and value not in names:
                names[value] = title if len(node.output) == 1 else f"{title}_{place}"
        made = helper.make_node(
            node.op_type,
            [names[value] for value in node.input],
            [names[value] for value in node.output],
            name=title,
        )
        made.attribute.extend(node.attribute)
        for attribute in made.attribute:
            attribute.ClearField("doc_string")
        yield made
