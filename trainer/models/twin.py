"""The twin: a bundle's defence in torch, for white-box attacks and for comparison with the engines.

A classifier that users brought is in it by its own ONNX graph, which the bundle has already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sdk.bundle import Bundle
from sdk.errors import BundleError, UsageError
from trainer import models
from trainer.config import Model
from trainer.models.budget import Budget
from trainer.models.classifier import DiverseClassifier
from trainer.models.defence import Defence
from trainer.models.engines import engine_classifier, engine_defence

PURIFIER = "purifier."  # heads the names of its weights

_REFUSALS = (safetensors.SafetensorError, RuntimeError, ValueError, TypeError, KeyError)


def save_twin(defence: Defence, path: Path, *, purifiers_alone: bool = False) -> None:
    """Write the weights of ``defence`` as safetensors, as float16 where that holds a tensor exactly.

    ``purifiers_alone`` leaves out the classifier's, where the bundle has another, or its ONNX graph.
    """
    weights = {
        name: _halved(value.detach().cpu()).contiguous()
        for name, value in defence.state_dict().items()
        if not purifiers_alone or name.startswith(PURIFIER)
    }
    path.write_bytes(safetensors.torch.save(weights))


def read_twin(
    bundle: Bundle,
    *,
    trust_code: bool = False,
    config: dict[str, Any] | None = None,
    classifiers: bool = True,
) -> Defence:
    """Rebuild the defence of ``bundle``: on the CPU, in float32 and eval mode, bit for bit what was exported.

    Args:
        trust_code: let a classifier of one's own be imported from where the bundle says.
        config: the model section that is built, by default the bundle's.
        classifiers: read those that are in it by their graphs.

    Raises:
        BundleError: the bundle has no twin, its weights don't fit its config, or it names code to import.
    """
    twin = bundle.manifest.twin
    if twin is None:
        raise BundleError(f"bundle {bundle.folder}: it has no twin, the weights of its purifiers in torch")
    weights = bundle.read(twin.weights)
    try:
        model = msgspec.convert(twin.config if config is None else config, Model)
        if not trust_code:
            _refuse_foreign_code(bundle, model)
        stored = safetensors.torch.load(weights)
        if model.classifier.kind == "onnx":
            return _before_engines(bundle, model, stored, classifiers)
        defence = models.build(model, weights=stored)
        defence.load_state_dict(stored)  # copies into float32, so casts up
    except UsageError as error:
        raise BundleError(f"bundle {bundle.folder}: its twin: {error.what}", hint=error.hint) from None
    except _REFUSALS as error:
        reason = " ".join(str(error).split())
        raise BundleError(
            f"bundle {bundle.folder}: {twin.weights.file} doesn't fit the twin's config: {reason[:300]}",
            hint="export the bundle again",
        ) from error
    return defence.eval()


def read_attackable(bundle: Bundle) -> Defence:
    """What a white-box attack differentiates: the twin, and by their graphs the engines without one.

    Raises:
        BackendError: the package onnx is needed and absent.
        BundleError: the twin can't be read, or a graph can't be followed in torch.
    """
    twin = bundle.manifest.twin
    if twin is None:
        return engine_defence(bundle)
    if twin.config.get("classifier", {}).get("kind") != "module":
        return read_twin(bundle)
    config = {**twin.config, "classifier": {"kind": "onnx"}}  # the user's code isn't here, its graph is
    return read_twin(bundle, config=config)


def read_purifiers(bundle: Bundle) -> Defence:
    """The twin of a bundle without its classifiers: it draws and purifies, and that is all.

    Raises:
        BundleError: the bundle has no twin, or its weights don't fit its config.
    """
    if bundle.manifest.twin is None:
        return read_twin(bundle)
    return read_twin(
        bundle, config={**bundle.manifest.twin.config, "classifier": {"kind": "onnx"}}, classifiers=False
    )


class _NotRead(nn.Module):
    """In place of classifiers that aren't asked for."""

    n_classifiers = 1


def _before_engines(bundle: Bundle, model: Model, state: dict[str, Tensor], classifiers: bool) -> Defence:
    """The twin's purifier, and the classifiers by their graphs."""
    with Budget(state.values()):
        purifier = models.build_purifier(model)
    kept = {name.removeprefix(PURIFIER): value for name, value in state.items() if name.startswith(PURIFIER)}
    purifier.load_state_dict(kept)
    members = engine_classifier(bundle) if classifiers else cast(DiverseClassifier, _NotRead())
    return Defence(purifier, members).eval()


def _refuse_foreign_code(bundle: Bundle, model: Model) -> None:
    """A bundle is data from anywhere: it may not name a module that reading it would import."""
    if model.classifier.kind == "module":
        raise BundleError(
            f"bundle {bundle.folder}: its twin's classifier is {model.classifier.factory!r}, code that "
            "reading it would run",
            hint="take the checkpoint that it was exported from",
        )


def _halved(value: Tensor) -> Tensor:
    if value.dtype is not torch.float32:
        return value
    half = value.half()
    return half if torch.equal(half.float(), value) else value
