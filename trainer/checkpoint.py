"""Checkpoints: one torch file with the weights, their average, and all that an exact resume needs.

``save`` is atomic. ``load_defence`` gives the averaged weights as a defence that is ready to evaluate or
export.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from sdk.errors import EdgePurifyError, UsageError
from sdk.files import replacing
from trainer import config as configs
from trainer.image_size import height_and_width
from trainer.models import Defence, build
from trainer.models.onnx_classifier import find

FORMAT = 1


class CheckpointError(EdgePurifyError):
    """A checkpoint is absent, damaged, or of another format."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as export and evaluation take it.

    Attributes:
        defence: the averaged weights, float32, in eval mode, rounded to FP16-representable values.
        config: the whole training config as plain data.
        labels: class names, in logit order.
        provenance: what made it: config, epochs done, validation figures, versions.
        digest: sha256 of the file's bytes that all of this was read from; None where there is no such file.
    """

    defence: Defence
    config: dict[str, Any]
    labels: tuple[str, ...]
    provenance: dict[str, Any]
    digest: str | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return height_and_width(self.config["model"]["image_size"])

    @property
    def family(self) -> str:
        return str(self.config["model"]["family"])


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically: a kill leaves the old checkpoint or the new one.

    Raises:
        CheckpointError: it can't be written; the old one stays.
    """
    try:
        with replacing(path) as stream:
            torch.save({"format": FORMAT, **state}, stream)
    except (OSError, RuntimeError) as error:  # torch hides a failed write behind one of its own
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause).partition("\n")[0]
        raise CheckpointError(
            f"checkpoint {path}: can't be written: {reason}", hint="free some space and --resume"
        ) from None


def load(path: Path) -> dict[str, Any]:
    """The state that ``save`` wrote.

    Raises:
        CheckpointError: absent, damaged, no checkpoint of this project, or of another format.
    """
    return _decoded(path, _read(path))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path}: no such file",
            hint="'edge-train fit' writes last.pt and best.pt in its --out",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: can't be read: {error.strerror or error}") from None


def _decoded(path: Path, content: bytes) -> dict[str, Any]:
    """The state in ``content``, which was read from ``path`` once: what was hashed is what is used."""
    try:
        _refuse_compressed(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, by what the file holds; and torch's advice is to trust it
        raise CheckpointError(
            f"checkpoint {path}: not readable as a torch file ({type(error).__name__})",
            hint="expected a checkpoint of 'edge-train fit'",
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(
            f"checkpoint {path}: expected an edge-purify checkpoint of format {FORMAT}, got {found}"
        )
    return state


def _refuse_compressed(content: bytes) -> None:
    """Torch stores without compression; a file that unpacks to more than it holds is none of its own."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > len(content):
        raise ValueError(f"it unpacks to {unpacked:,} bytes")


def load_defence(path: Path, *, trust_code: bool = False, known_factory: str | None = None) -> Loaded:
    """The averaged weights of a checkpoint, finished for use; see ``Loaded``.

    Args:
        path: the checkpoint's file.
        trust_code: let a classifier of one's own be imported from where the checkpoint says.
        known_factory: the one place that it may be imported from anyway, since the caller's own config names
            it.

    Raises:
        CheckpointError: it can't be read, or names code to import.
    """
    content = _read(path)
    state = _decoded(path, content)
    try:
        config = configs.from_dict(state["config"], where=f"checkpoint {path}")
        factory = config.model.classifier.factory
        if factory is not None and not trust_code and factory != known_factory:
            raise CheckpointError(
                f"checkpoint {path}: its classifier is {factory!r}, code that reading it would run",
                hint="if you trust where the checkpoint comes from, give --trust-code",
            )
        weights = msgspec.convert(state["averaged"], dict[str, Tensor])
        labels = msgspec.convert(state["labels"], tuple[str, ...])
        provenance = msgspec.convert(state["provenance"], dict[str, Any])
        file = classifier_file(state)
        defence = build(config.model, seed=config.seed, classifier_file=file, weights=weights)
        defence.load_state_dict(weights)
    except UsageError as error:
        what = error.what if error.what.startswith("checkpoint ") else f"checkpoint {path}: {error.what}"
        raise CheckpointError(what, hint=error.hint) from None
    except (KeyError, RuntimeError, TypeError, ValueError, msgspec.ValidationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"checkpoint {path}: {reason}", hint="train it again") from None
    finish(defence)
    digest = hashlib.sha256(content).hexdigest()
    return Loaded(defence, configs.to_dict(config), labels, provenance, digest)


def with_classifier_file(state: dict[str, Any], defence: Defence) -> dict[str, Any]:
    """``state`` with the ONNX file of a classifier that users brought, which the file system may lose."""
    found = find(defence.classifier)
    if found is None:
        return state
    return {**state, "classifier_file": torch.frombuffer(bytearray(found.graph.content), dtype=torch.uint8)}


def classifier_file(state: dict[str, Any]) -> bytes | None:
    """The ONNX file in a state; None where its classifier is of another kind."""
    content: Tensor | None = state.get("classifier_file")
    return None if content is None else content.numpy().tobytes()


@torch.no_grad()
def finish(defence: Defence) -> None:
    """Make averaged weights fit to ship: eval mode, FP16-representable values, derived constants updated.

    The rounding lets the twin be stored in half the space and cast up exactly. A classifier from an ONNX file
    ships as that file, so its weights stay as they are.
    """
    parts = [defence] if find(defence.classifier) is None else [defence.purifier]
    for tensor in (tensor for part in parts for tensor in (*part.parameters(), *part.buffers())):
        if tensor.is_floating_point():
            tensor.copy_(_representable(tensor))
    defence.after_update(50)
    defence.requires_grad_(False).eval()


def _representable(tensor: Tensor) -> Tensor:
    return tensor.half().to(tensor.dtype)
