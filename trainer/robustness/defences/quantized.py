"""The fake-quantized twin: a bundle's INT8 engines as one differentiable defence.

Forward it computes what the engines do, every rounding and saturation included; backward the roundings are
straight-through. Adversarial examples of the FP32 twin are merely transferred to INT8 engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sdk.bundle import Bundle, Engine
from sdk.choices import GraphKind
from sdk.errors import BundleError
from trainer.models import Defence
from trainer.models.classifier import DiverseClassifier
from trainer.models.onnx_graph import OnnxGraph
from trainer.models.purifier import PurifierBank
from trainer.models.twin import read_twin


def read_quantized_twin(bundle: Bundle, kind: GraphKind = "gpu") -> Defence:
    """The INT8 engines of ``bundle`` as a defence, on the CPU; it can be attacked, not trained.

    Args:
        kind: the ONNX graphs to follow, where GPUs and CPUs run different ones.

    Raises:
        BackendError: the package onnx is absent.
        BundleError: the bundle has no INT8 engines, no twin, or graphs that can't be followed in torch.
    """
    manifest = bundle.manifest
    if any("int8" not in engine.onnx for engine in manifest.engines):
        raise BundleError(
            f"bundle {bundle.folder}: not every engine has INT8",
            hint=f"edge-export precision {bundle.folder} --precision int8",
        )
    unrounded = read_twin(bundle)
    given = [] if unrounded.random_input is None else [unrounded.random_input.name]
    purifier = EnginePurifier(_graphs(bundle, manifest.purifiers, kind, *given), unrounded.purifier)
    classifier = EngineClassifier(_graphs(bundle, manifest.classifiers, kind), unrounded.classifier.n_classes)
    return Defence(purifier, cast(DiverseClassifier, classifier)).requires_grad_(False).eval()


class EnginePurifier(PurifierBank):
    """The purifiers of a bundle, by their graphs: a ``trainer.models.purifier.PurifierBank``.

    Attributes:
        unrounded: the twin's purifier, for attacks whose backward pass goes around the true one.
    """

    def __init__(self, graphs: Sequence[OnnxGraph], unrounded: PurifierBank) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(graphs)
        self.unrounded = unrounded
        self.random_input = unrounded.random_input

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


def _graphs(
    bundle: Bundle, engines: Sequence[Engine], kind: GraphKind, *random_inputs: str
) -> list[OnnxGraph]:
    inputs = ("image", *random_inputs)
    files = [engine.graph("int8", kind) for engine in engines]
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
