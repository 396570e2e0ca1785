"""A classifier that users bring as an ONNX file: ``model.classifier.kind = "onnx"``.

It is the file's own graph in torch, so the purifier trains through the very network that ships, and a
white-box attack meets it. Norms keep their statistics, and dropout is off, in training too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sdk.errors import BundleError, EdgePurifyError, UsageError
from trainer.config import Classifier
from trainer.config.conventions import Conventions
from trainer.image_size import ImageSize, height_and_width
from trainer.models.classifier import Parts
from trainer.models.onnx_graph import OnnxGraph

CLIPPED = 1e-12  # the least probability whose logarithm is taken
ROW_SUM = 5e-3  # a row of probabilities may be so far off 1, as after rounding to half precision
BOUNDS = 1e-5  # a probability may be so far outside [0, 1]

Scores = Literal["logits", "probabilities"]


class OnnxClassifier(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to logits (B, n_classes), by an ONNX graph.

    Args:
        graph: from one image to its scores.
        conventions: how the graph wants its image.
        scores: what it gives; one score is that of the second of two classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, graph: OnnxGraph, conventions: Conventions, scores: Scores) -> None:
        super().__init__()
        self.graph, self.conventions, self.scores = graph, conventions, scores
        for name in ("mean", "std"):
            values = torch.tensor(getattr(conventions, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        wants = conventions.mean, conventions.std, conventions.range
        self.is_normalized = wants == ((0, 0, 0), (1, 1, 1), 1)  # already, as every image here is

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.raw_scores(images), self.scores)

    def raw_scores(self, images: Tensor) -> Tensor:
        """What the graph gives for ``images``, (B, n_scores)."""
        given = images if self.conventions.color == "rgb" else images.flip(1)
        if not self.is_normalized:
            given = (given * self.conventions.range - self.mean) / self.std
        if self.conventions.layout == "nhwc":
            given = given.permute(0, 2, 3, 1)
        scores: Tensor = self.graph(given)
        return scores.flatten(1)

    def onnx_bytes(self) -> bytes:
        """The ONNX file with the weights as they are now; bit for bit the file where none has changed."""
        return self.graph.onnx_bytes()


def onnx_parts(section: Classifier, n_classes: int, image_size: ImageSize, content: bytes | None) -> Parts:
    """One member, from ``content`` or the file that ``section`` names.

    Raises:
        UsageError: it can't be read, isn't the file that the config means, or is no such classifier.
    """
    member = read_classifier(section, n_classes, image_size, content)
    return Parts(nn.Identity(), lambda: member)


def read_classifier(
    section: Classifier, n_classes: int, image_size: ImageSize, content: bytes | None = None
) -> OnnxClassifier:
    """See ``onnx_parts``."""
    if section.file is None and content is None:
        raise UsageError("model.classifier.file: missing; expected the path of an ONNX file")
    path = Path(section.file or "classifier.onnx")
    try:
        graph = OnnxGraph(path, content=content, output=section.output)
        if len(graph.inputs) != 1:
            raise _refusal(path, f"expected one input, the image, got {', '.join(graph.inputs)}")
        digest = hashlib.sha256(graph.content).hexdigest()
        if section.file_sha256 not in (None, digest):
            raise UsageError(
                f"model.classifier.file {path}: its sha256 is {digest[:12]}…, "
                f"expected {str(section.file_sha256)[:12]}…",
                hint="give the file that the run began with",
            )
        classifier = OnnxClassifier(graph, section.input, section.scores or "logits")
        found = _try_out(classifier, path, n_classes, image_size)
    except BundleError as error:
        raise UsageError(f"model.classifier.file {error.what}", hint=error.hint) from error
    if section.scores is None and are_probabilities(found):
        classifier.scores = "probabilities"
    return classifier


def digest_of(classifier: nn.Module) -> str | None:
    """The sha256 of the file of a classifier of the kind "onnx"; None for others."""
    found = find(classifier)
    return None if found is None else hashlib.sha256(found.graph.content).hexdigest()


def find(classifier: nn.Module) -> OnnxClassifier | None:
    """The ONNX classifier inside a diverse classifier, if it is one."""
    return next((module for module in classifier.modules() if isinstance(module, OnnxClassifier)), None)


def are_probabilities(scores: Tensor) -> bool:
    """Whether the rows of ``scores`` (N, C) are probabilities of C classes: they sum to 1."""
    within = bool((scores >= -BOUNDS).all() and (scores <= 1 + BOUNDS).all())
    return scores.shape[1] > 1 and within and bool(((scores.sum(1) - 1).abs() <= ROW_SUM).all())


def logits_of(scores: Tensor, kind: Scores) -> Tensor:
    """Logits (N, n_classes) of ``scores``: a softmax of them gives the probabilities."""
    if scores.shape[1] == 1:
        first = torch.zeros_like(scores) if kind == "logits" else 1 - scores
        scores = torch.cat([first, scores], 1)
    return scores.clamp(min=CLIPPED).log() if kind == "probabilities" else scores


@torch.no_grad()
def _try_out(classifier: OnnxClassifier, path: Path, n_classes: int, image_size: ImageSize) -> Tensor:
    """Scores of a few images: a wrong shape is told before any training."""
    height, width = height_and_width(image_size)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    try:
        scores = classifier.raw_scores(images)
    except EdgePurifyError as error:
        size = f"(1, 3, {height}, {width}), model.image_size"
        raise _refusal(path, f"given an image of {size}: {error.what}") from error
    wanted = (1, 2) if n_classes == 2 else (n_classes,)
    if scores.shape[1] not in wanted:
        raise _refusal(
            path, f"expected {n_classes} scores for an image, model.n_classes, got {scores.shape[1]}"
        )
    if not scores.isfinite().all():
        raise _refusal(path, "it gives NaN or infinite scores for ordinary images")
    return scores


def _refusal(path: Path, what: str) -> UsageError:
    return UsageError(
        f"model.classifier.file {path}: {what}",
        hint="check model.classifier.input (mean, std, layout, color, range) and model.classifier.output",
    )
