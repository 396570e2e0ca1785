"""What is evaluated: a bundle, attacked through its twin and judged on its engines, or a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.backends import open_backend
from sdk.backends.interface import Backend
from sdk.bundle import MANIFEST, Bundle, Precision, RandomInput
from sdk.choices import GraphKind
from sdk.errors import UsageError
from trainer.checkpoint import load_defence
from trainer.models import Defence
from trainer.models.purifier import RandomSubset
from trainer.models.twin import read_attackable
from trainer.robustness.defences.judges import EngineJudge, Judge, TorchJudge
from trainer.robustness.defences.quantized import read_quantized_twin


@dataclass(frozen=True)
class Target:
    """A defence as the evaluation takes it.

    Attributes:
        name: the bundle's name, or the training config's.
        digest: hex; changes with any weight.
        labels: class names, in logit order.
        judge: says what an image is taken for.
        twin: what a white-box attacker differentiates.
        attacked: what that makes of the attacks, in words.
        height, width: of the images, in pixels.
        provenance: what made it.
        n_draws: how many different draws there are.
        bundle: None for a checkpoint.
        fp32_twin: of INT8 engines the twin before quantization, whose attacks are transferred too; else None.
    """

    name: str
    digest: str
    labels: tuple[str, ...]
    judge: Judge
    twin: Defence
    attacked: str
    height: int
    width: int
    provenance: dict[str, Any]
    n_draws: int
    bundle: Bundle | None = None
    fp32_twin: Defence | None = None

    @property
    def clean_trained(self) -> bool:
        """Whether training saw no adversary of the classifier."""
        recipe = self.provenance.get("config", {}).get("recipe", {})
        result: bool = recipe.get("kind") == "clean"
        return result


@contextmanager
def open_target(
    path: Path, *, backend: str = "auto", precision: str = "fp32", trust_code: bool = False
) -> Iterator[Target]:
    """Open a bundle's folder or a checkpoint's file; engines are released at the end.

    The precision is fp32 unless another is asked for: what is measured must not depend on which one is the
    fastest on this machine. ``trust_code`` lets a checkpoint's classifier be imported from where it says.

    Raises:
        BundleError, CheckpointError: it is damaged.
        UsageError, BackendError: nothing is there, or the backend or precision can't be had.
    """
    if path.is_dir() or path.name == MANIFEST:
        bundle = Bundle.open(path.parent if path.name == MANIFEST else path)
        opened = open_backend(bundle, backend, precision)
        try:
            yield _from_bundle(bundle, opened)
        finally:
            opened.close()
    elif path.is_file():
        yield _from_checkpoint(path, trust_code=trust_code)
    else:
        raise UsageError(
            f"{path}: no such file or folder",
            hint="give a bundle's folder or a checkpoint of 'edge-train fit'",
        )


def _from_bundle(bundle: Bundle, backend: Backend) -> Target:
    manifest = bundle.manifest
    twin, attacked = _twin(bundle, backend.precision, backend.graphs)
    has_two = backend.precision == "int8"
    return Target(
        name=manifest.name,
        digest=bundle.digest,
        labels=bundle.labels,
        judge=EngineJudge(bundle, backend),
        twin=twin,
        attacked=attacked,
        height=manifest.image.height,
        width=manifest.image.width,
        provenance=manifest.provenance,
        n_draws=len(manifest.classifiers)
        * sum(_subsets(engine.random_inputs) for engine in manifest.purifiers),
        bundle=bundle,
        fp32_twin=read_attackable(bundle).requires_grad_(False) if has_two else None,
    )


def _twin(bundle: Bundle, precision: Precision, kind: GraphKind) -> tuple[Defence, str]:
    """What is differentiated in place of the engines, and that in words."""
    if precision == "int8":
        twin = read_quantized_twin(bundle, kind)
        return twin, "its fake-quantized twin in torch, int8, straight-through"
    if bundle.manifest.twin is None:
        return read_attackable(bundle), "its own ONNX graphs in torch, fp32"
    return read_attackable(bundle).requires_grad_(False), "its twin in torch, fp32"


def _from_checkpoint(path: Path, *, trust_code: bool) -> Target:
    loaded = load_defence(path, trust_code=trust_code)
    random_inputs = () if loaded.defence.random_input is None else (loaded.defence.random_input,)
    return Target(
        name=str(loaded.config["name"]),
        digest=loaded.digest or "",
        labels=loaded.labels,
        judge=TorchJudge(loaded.defence, "torch checkpoint"),
        twin=loaded.defence,
        attacked="itself",
        height=loaded.image_size[0],
        width=loaded.image_size[1],
        provenance=loaded.provenance,
        n_draws=loaded.defence.n_purifiers * loaded.defence.n_classifiers * _subsets(random_inputs),
    )


def _subsets(random_inputs: Iterable[RandomInput | RandomSubset]) -> int:
    """How many values the random inputs of one purifier can take together."""
    return math.prod(math.comb(given.size, given.take) for given in random_inputs)
