"""Check that a checkpoint belongs to the run that resumes from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from sdk.errors import UsageError
from trainer import config as configs
from trainer.config import Config
from trainer.data import DataSet
from trainer.data.soft_targets import OpenedTargets


def digest_of(training: DataSet) -> str:
    """Of all labels and the first images: it tells a data set, its order and its bank from others."""
    digest = hashlib.sha256(training.targets.numpy().tobytes())
    digest.update(training[:64].pixels.numpy().tobytes())
    return digest.hexdigest()


def with_digest(config: Config, digest: str | None) -> Config:
    """``config`` with the sha256 of its classifier's ONNX file: another file is another run."""
    if digest is None:
        return config
    classifier = msgspec.structs.replace(config.model.classifier, file_sha256=digest)
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, classifier=classifier))


def check_same_run(
    state: dict[str, Any], config: Config, training: DataSet, data_digest: str, out: Path
) -> None:
    """
    Raises:
        UsageError: ``state`` is of another config, or of a run on other images.
    """
    # decoded, so that a run goes on which began before the config had a key that it has now
    if configs.from_dict(state["config"], where=f"checkpoint {out / 'last.pt'}") != config:
        raise UsageError(
            f"--resume: {out} holds a run of another config", hint="give that one, or another --out"
        )
    n_images, digest = len(training), data_digest
    # likewise, before checkpoints had the digest
    if (state["provenance"]["training_images"], state.get("data", digest)) != (n_images, digest):
        raise UsageError(
            f"--resume: --data holds other training images than the run in {out} began with",
            hint="give those, or another --out",
        )


def check_same_soft_targets(state: dict[str, Any], targets: OpenedTargets | None, out: Path) -> None:
    """
    Raises:
        UsageError: the run of ``state`` trained on other soft targets.
    """
    if state["provenance"].get("soft_targets") != (targets.provenance if targets is not None else None):
        raise UsageError(
            f"--resume: recipe.soft_targets is another file than the run in {out} began with",
            hint="give that one, or another --out",
        )
