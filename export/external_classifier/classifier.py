"""Bring your own classifier: any ONNX file that maps one image to class scores, as a bundle's classifier.

Its own conventions (normalization, range, colour and axis order) go into the graph, so that it takes what
every engine takes: float32 (1, 3, H, W), RGB in [0, 1]. It has no torch twin.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxslim
from onnx import TensorProto, helper, numpy_helper

from export.external_classifier import scores as score_kinds
from export.external_classifier.conventions import Conventions, front_nodes
from export.external_classifier.conversion import prepare, run_all
from export.external_classifier.reading import first_line, refusal
from export.inputs.synthetic_images import synthetic_images
from export.precision.graph import finished
from export.precision.ranges import session
from export.torch_to_onnx import IR_VERSION, OPSET, ExportError
from sdk.arrays import FloatImage
from sdk.errors import UsageError
from sdk.given import read_given_text

N_SAMPLES = 8
SEED = 11
SAME = 1e-3  # of the scores' spread: how far rewriting the graph may move them
SUBGRAPHS = ("If", "Loop", "Scan")


class ForeignClassifier:
    """A classifier from an ONNX file.

    Args:
        path: the file.
        labels: one for each of its scores; two where it gives one score.
        conventions: how it wants its image.
        image_size: height and width of its images where the file leaves them open.
        scores: what its scores are; None recognizes them on a few images.
        output: name of the value that holds the scores, where that isn't the file's only output.

    Attributes:
        height, width: of its images.
        scores: "logits" or "probabilities".
        notes: what was changed on the way to an engine, each as a short sentence.
        content: the file's bytes.
        trained_with: whether the purifiers before it were trained with it.
        says: where it comes from, for the provenance.

    Raises:
        UsageError: the file is absent, or is no classifier of one image with as many classes as labels.
        ExportError: its graph can't be brought to an engine's form.
    """

    def __init__(
        self,
        path: Path,
        labels: tuple[str, ...],
        conventions: Conventions,
        *,
        image_size: tuple[int, int] | None = None,
        scores: score_kinds.Scores | None = None,
        output: str | None = None,
    ) -> None:
        self.path, self.labels, self.conventions = path, labels, conventions
        prepared = prepare(path, conventions, output=output, image_size=image_size, samples=_samples)
        self.model, self._input = prepared.model, prepared.input
        self.height, self.width = prepared.height, prepared.width
        self.notes, self.content = list(prepared.notes), prepared.content
        self.trained_with = False
        self._output = output
        self._given = session(self.model.SerializeToString(), str(path))
        found = self._scores(_samples(self.height, self.width))
        self.n_scores = found.shape[1]
        self.scores: score_kinds.Scores = score_kinds.recognize(
            path, found, len(labels), scores, ends_in_sigmoid=prepared.ends_in_sigmoid
        )

    @property
    def says(self) -> dict[str, Any]:
        return {
            "file": self.path.name,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            **msgspec.structs.asdict(self.conventions),
            "scores": self.scores,
            **({} if self._output is None else {"output": self._output}),
            **({"changes": self.notes} if self.notes else {}),
        }

    @property
    def gives_probabilities(self) -> bool:
        return self.scores == "probabilities"

    def classify(self, images: FloatImage) -> FloatImage:
        """Logits (B, n_classes) of ``images`` (B, 3, H, W), RGB in [0, 1], by the file as it was given."""
        return score_kinds.logits_of(self._scores(images), self.scores)

    def engine_bytes(self, name: str) -> bytes:
        """The classifier as an engine's ONNX file: input ``image``, output ``logits``.

        A file that is one already stays as it is, byte for byte.

        Raises:
            ExportError: an operator or the opset can't be brought to opset 18.
        """
        if self._is_engine():
            return self.content
        for node in self.model.graph.node:
            if node.domain not in ("", "ai.onnx") or node.op_type in SUBGRAPHS:
                operator = f"{node.domain}.{node.op_type}".lstrip(".")
                raise ExportError(
                    f"{self.path}: operator {operator}: expected ONNX's own operators without control flow",
                    hint="export the classifier again without it",
                )
        graph = self._simplified(self._in_our_opset()).graph
        nodes, weights = _renamed(graph, self._input)
        front, front_weights = front_nodes(self.conventions)
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, self.height, self.width])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(self.labels)])]
        wrapped = helper.make_model(helper.make_graph([], name, inputs, outputs))
        back, back_weights = score_kinds.nodes(self.n_scores, self.scores)
        return finished(wrapped, [*front, *nodes, *back], [*front_weights, *weights, *back_weights])

    def _is_engine(self) -> bool:
        """Whether the file needs nothing: an engine of a bundle, of this or another one."""
        if self.conventions != Conventions() or self.scores != "logits" or self.notes:
            return False
        model = onnx.load_model_from_string(self.content)
        values = [*model.graph.input, *model.graph.output]
        shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]
        opsets = [(entry.domain, entry.version) for entry in model.opset_import]
        is_whole = all(weight.data_location != weight.EXTERNAL for weight in model.graph.initializer)
        return (
            [value.name for value in values] == ["image", "logits"]
            and shapes == [[1, 3, self.height, self.width], [1, len(self.labels)]]
            and (opsets, model.ir_version <= IR_VERSION, is_whole) == ([("", OPSET)], True, True)
        )

    def _in_our_opset(self) -> onnx.ModelProto:
        if self._opset == OPSET:
            return self.model
        try:
            converted = onnx.version_converter.convert_version(self.model, OPSET)
            same = self._is_same(converted)
        except Exception as error:  # the converter has errors of its own, without a common base
            raise self._cannot_convert(first_line(error)) from error
        if not same:
            raise self._cannot_convert("its scores change")
        return converted

    def _simplified(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The graph folded and fused; as it is where that fails or changes what it computes."""
        try:
            slim = onnxslim.slim(onnx.ModelProto.FromString(model.SerializeToString()))
            why = None if self._is_same(slim) else "changed its scores"
        except Exception as error:  # whatever the simplifier raises, or what it made can't be run
            why = f"failed ({first_line(error)})"
        if why is None:
            return slim
        note = f"simplifying the graph {why}, so it is kept as it is"
        if note not in self.notes:
            self.notes.append(note)
        return model

    def _is_same(self, model: onnx.ModelProto) -> bool:
        inputs = self.conventions.apply(_samples(self.height, self.width))
        expected, found = (
            np.stack(run_all(self.path, one, self._input, [image[None] for image in inputs]))
            for one in (self.model, model)
        )
        spread = max(float(expected.std()), float(np.abs(expected).max()) * 0.01, 1e-6)
        return found.size == expected.size and bool(
            np.abs(found.ravel() - expected.ravel()).max() <= SAME * spread
        )

    def _cannot_convert(self, reason: str) -> ExportError:
        return ExportError(
            f"{self.path}: can't be brought from opset {self._opset} to {OPSET}: {reason}",
            hint=f"export the classifier again with opset {OPSET}",
        )

    @property
    def _opset(self) -> int:
        return next(
            (int(entry.version) for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 0
        )

    def _scores(self, images: FloatImage) -> FloatImage:
        """Scores (B, n_scores), one image after the other."""
        rows = []
        for image in self.conventions.apply(images):
            try:
                row = self._given.run(None, {self._input: image[None]})[0]
            except Exception as error:  # ONNX Runtime's own error classes share no narrower base
                reason = " ".join(str(error).split())
                raise refusal(self.path, f"it doesn't run on one image: {reason}") from error
            rows.append(np.asarray(row, np.float32).reshape(-1))
        scores: FloatImage = np.stack(rows)
        return scores


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in ``path``, one a line, in Unicode's composed form; a name may occur twice.

    A byte order mark and empty lines at the end are left out.

    Raises:
        UsageError: it can't be read, or a line between others is empty.
    """
    try:
        text = read_given_text(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(
            f"--labels {path}: can't be read: {reason}", hint="give a text file, one label a line"
        ) from None
    lines = [unicodedata.normalize("NFC", " ".join(line.split())) for line in text.rstrip().split("\n")]
    empty = [number for number, line in enumerate(lines, 1) if not line]
    if empty:
        what = "it is empty" if lines == [""] else f"line {empty[0]} is empty"
        raise UsageError(
            f"--labels {path}: {what}, expected one label a line and no empty line",
            hint="remove it, or give the label that belongs there",
        )
    return tuple(lines)


def _samples(height: int, width: int) -> FloatImage:
    """A few natural-looking images (N, 3, H, W) in [0, 1]."""
    pixels = synthetic_images(N_SAMPLES, height, width, seed=SEED).numpy()
    images: FloatImage = np.divide(pixels, 255, dtype=np.float32)
    return images


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
