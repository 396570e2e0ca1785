"""The twin: a bundle's defence in torch, for white-box attacks and for comparison with the engines."""

from __future__ import annotations

from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sdk.bundle import Bundle
from sdk.errors import BundleError, UsageError
from trainer import models
from trainer.config import Model
from trainer.models.defence import Defence

_REFUSALS = (safetensors.SafetensorError, RuntimeError, ValueError, TypeError, KeyError)


def save_twin(defence: Defence, path: Path) -> None:
    """Write the weights of ``defence`` as safetensors, as float16 where that holds a tensor exactly."""
    weights = {
        name: _halved(value.detach().cpu()).contiguous() for name, value in defence.state_dict().items()
    }
    path.write_bytes(safetensors.torch.save(weights))


def read_twin(bundle: Bundle, *, trust_code: bool = False) -> Defence:
    """Rebuild the defence of ``bundle``: on the CPU, in float32 and eval mode, bit for bit what was exported.

    Args:
        trust_code: let a classifier of one's own be imported from where the bundle says.

    Raises:
        BundleError: the bundle has no twin, its weights don't fit its config, or it names code to import.
    """
    twin = bundle.manifest.twin
    if twin is None:
        raise BundleError(f"bundle {bundle.folder}: it has no twin (a foreign classifier has none)")
    weights = bundle.read(twin.weights)
    try:
        model = msgspec.convert(twin.config, Model)
        if not trust_code:
            _refuse_foreign_code(bundle, model)
        stored = safetensors.torch.load(weights)
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
