"""A bundle's engines as a differentiable defence, each by its own ONNX graph.

So every bundle can be attacked white-box: around a classifier that users brought, and in INT8, where rounding
and saturation are the engines' own forward and straight-through backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sdk.bundle import Bundle, Engine, Precision
from sdk.choices import GraphKind
from sdk.errors import BundleError
from trainer.models.classifier import DiverseClassifier
from trainer.models.defence import Defence
from trainer.models.onnx_graph import OnnxGraph
from trainer.models.purifier import PurifierBank, RandomSubset


class EnginePurifier(PurifierBank):
    """The purifiers of a bundle, by their graphs.

    Attributes:
        unrounded: the twin's purifier, for attacks whose backward pass goes around the true one; None in a
            bundle without its weights.
    """

    def __init__(
        self,
        graphs: Sequence[OnnxGraph],
        random_input: RandomSubset | None,
        unrounded: PurifierBank | None = None,
    ) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(graphs)
        self.unrounded = unrounded
        self.random_input = random_input

    @property
    def n_purifiers(self) -> int:
        return len(self.graphs)

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        given = (images,) if self.random_input is None else (images, random_input)
        return _each_by_its_own(self.graphs, purifier, *given)

    def single(self, index: int) -> nn.Module:
        return self.graphs[index]

    def after_update(self, steps: int = 1) -> None:
        """Nothing is derived from engines, whose weights never change."""


class EngineClassifier(nn.Module):
    """The classifiers of a bundle, by their graphs, with the calls of ``DiverseClassifier``.

    Nothing is shared between members: their engines may round one trunk in different ways.
    """

    def __init__(self, graphs: Sequence[OnnxGraph], n_classes: int) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(graphs)
        self.n_classes = n_classes

    @property
    def n_classifiers(self) -> int:
        return len(self.graphs)

    def forward(self, images: Tensor, member: Tensor) -> Tensor:
        """Logits (B, n_classes), each by the member (B,) int64 drawn for it."""
        return _each_by_its_own(self.graphs, member, images)

    def all_logits(self, images: Tensor) -> Tensor:
        """Logits of every member, (J, B, n_classes)."""
        return torch.stack([graph(images) for graph in self.graphs])


def engine_defence(
    bundle: Bundle,
    precision: Precision = "fp32",
    kind: GraphKind = "gpu",
    *,
    unrounded: PurifierBank | None = None,
) -> Defence:
    """The engines of ``bundle``, on the CPU; they can be attacked, not trained.

    Args:
        precision, kind: of the engines; GPUs and CPUs may run different graphs.
        unrounded: see ``EnginePurifier``.

    Raises:
        BackendError: the package onnx is absent.
        BundleError: not every engine has that precision, or a graph can't be followed in torch.
    """
    manifest = bundle.manifest
    if any(precision not in engine.onnx for engine in manifest.engines):
        raise BundleError(
            f"bundle {bundle.folder}: not every engine has {precision.upper()}",
            hint=f"edge-export precision {bundle.folder} --precision {precision}",
        )
    subset = _random_input(bundle)
    names = [] if subset is None else [subset.name]
    graphs = _graphs(bundle, manifest.purifiers, precision, kind, *names)
    purifier = EnginePurifier(graphs, subset, unrounded)
    classifier = engine_classifier(bundle, precision, kind)
    return Defence(purifier, classifier).requires_grad_(False).eval()


def engine_classifier(
    bundle: Bundle, precision: Precision = "fp32", kind: GraphKind = "gpu"
) -> DiverseClassifier:
    """The classifiers of ``bundle`` alone; see ``engine_defence``."""
    graphs = _graphs(bundle, bundle.manifest.classifiers, precision, kind)
    return cast(DiverseClassifier, EngineClassifier(graphs, len(bundle.labels)).requires_grad_(False).eval())


def _random_input(bundle: Bundle) -> RandomSubset | None:
    kinds = {engine.random_inputs for engine in bundle.manifest.purifiers}
    if len(kinds) > 1 or len(given := next(iter(kinds))) > 1:
        raise BundleError(
            f"bundle {bundle.folder}: its purifiers take different random inputs, so no draw fits them all",
            hint="attack the checkpoint that it was exported from",
        )
    return RandomSubset(given[0].name, given[0].size, given[0].take, given[0].encoding) if given else None


def _graphs(
    bundle: Bundle, engines: Sequence[Engine], precision: Precision, kind: GraphKind, *random_inputs: str
) -> list[OnnxGraph]:
    inputs = ("image", *random_inputs)
    files = [engine.graph(precision, kind) for engine in engines]
    return [OnnxGraph(bundle.path(file), inputs, content=bundle.read(file)) for file in files]


def _each_by_its_own(graphs: nn.ModuleList, which: Tensor, *inputs: Tensor) -> Tensor:
    """The output for every row of ``inputs`` by the graph that ``which`` (B,) names for it."""
    rows = [(which == index).nonzero().squeeze(1) for index in range(len(graphs))]
    found = [
        graph(*(given[chosen] for given in inputs))
        for graph, chosen in zip(graphs, rows, strict=True)
        if len(chosen)
    ]
    return torch.cat(found)[torch.cat(rows).argsort()]
