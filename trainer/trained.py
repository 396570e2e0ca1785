"""A trained defence, read from a checkpoint's file or from a bundle's folder, whose twin it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.bundle import Bundle, sha256_of
from trainer import checkpoint
from trainer.models import Defence
from trainer.models.twin import read_twin


@dataclass(frozen=True)
class Trained:
    """What training made.

    Attributes:
        name: of the run or of the bundle.
        defence: the averaged weights, float32, in eval mode.
        labels: class names, in logit order.
        image_size: height and width of the images in pixels.
        provenance: what made it.
        digest: sha256 of the checkpoint or of the bundle's manifest, which names the twin's.
    """

    name: str
    defence: Defence
    labels: tuple[str, ...]
    image_size: tuple[int, int]
    provenance: dict[str, Any]
    digest: str


def open_trained(path: Path, *, trust_code: bool = False, known_factory: str | None = None) -> Trained:
    """Read a bundle if ``path`` is a folder, otherwise a checkpoint.

    Args:
        trust_code: let a classifier of one's own be imported from where it says.
        known_factory: the one place that a checkpoint's classifier may be imported from anyway, since the
            caller's own config names it.

    Raises:
        CheckpointError: a checkpoint can't be read, or names code to import.
        BundleError: a bundle can't be read, has no twin, or names code to import.
    """
    if path.is_dir():
        bundle = Bundle.open(path)
        manifest = bundle.manifest
        return Trained(
            manifest.name,
            read_twin(bundle, trust_code=trust_code),
            tuple(bundle.labels),
            (manifest.image.height, manifest.image.width),
            dict(manifest.provenance),
            bundle.digest,
        )
    loaded = checkpoint.load_defence(path, trust_code=trust_code, known_factory=known_factory)
    name = str(loaded.config["name"])
    return Trained(name, loaded.defence, loaded.labels, loaded.image_size, loaded.provenance, sha256_of(path))
