"""The images that engines are calibrated and judged on, and what each is fed of them under real draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from export.inputs.labelled import Labelled
from sdk.backends.interface import Backend, Float
from sdk.bundle import Bundle, Engine, Manifest
from sdk.draw import Drawer
from sdk.errors import UsageError

N_CALIBRATION = 160
HELD_OUT = 5  # one image in so many is for choosing, not for calibrating
N_ACCURACY = 1000
SEED = 3  # apart from the images and draws of the gates

Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Pictures:
    """Images for one bundle.

    Attributes:
        says: what they are, for the provenance.
        calibration: float32 (N, 3, H, W) in [0, 1]: measured by, never judged by.
        labelled: what accuracy is measured on; empty where there is nothing with labels.
    """

    says: str
    calibration: Float
    labelled: tuple[Labelled, ...] = ()


def self_made(manifest: Manifest) -> Pictures:
    """Pictures made by rule: for engines whose data set isn't at hand, and only so good a calibration."""
    images = self_made_images(manifest, N_CALIBRATION, seed=SEED)
    return Pictures(f"{len(images)} self-made pictures", images)


def self_made_images(manifest: Manifest, count: int, *, seed: int = 1) -> Float:
    """``count`` self-made pictures of the size of the bundle's images."""
    from export.inputs.synthetic_images import synthetic_images  # needs torch

    return _floats(synthetic_images(count, manifest.image.height, manifest.image.width, seed=seed).numpy())


def from_dataset(
    bundle: Bundle, folder: Path, name: str | None = None, *, n_accuracy: int = N_ACCURACY
) -> Pictures:
    """Calibrate on training images, spread over the whole set, and measure accuracy on the first test images.

    Args:
        bundle: to be calibrated.
        folder: where the data set is.
        name: of the data set; by default the one that the bundle's training config names.
        n_accuracy: at most so many test images.

    Raises:
        UsageError: no data set is known, or its images or classes don't fit the bundle.
        DataError: the data set is absent or damaged.
    """
    name, test = _test_set(bundle, folder, name)
    training = _opened(bundle, folder, "train", name)
    rows = np.linspace(0, len(training) - 1, min(len(training), N_CALIBRATION)).astype(np.int64)
    judged = test[slice(0, n_accuracy)]
    return Pictures(
        f"{len(rows)} training images of {name}",
        _floats(training.subset(_tensor(rows))[slice(None)].pixels.numpy()),
        (Labelled("clean", _floats(judged.pixels.numpy()), judged.targets.numpy()),),
    )


def attacked_images(
    bundle: Bundle, path: Path, folder: Path, name: str | None = None
) -> tuple[Labelled, ...]:
    """The attacked images, one set for each attack, of a record of ``edge-train evaluate --record``.

    They were made against one precision's twin, so on another precision they measure transfer, no white-box
    attack.

    Args:
        bundle: to be judged.
        path: the record, which holds perturbations of test images and not the images.
        folder, name: of the data set, as in ``from_dataset``.

    Raises:
        EdgePurifyError: the record can't be read, or belongs to other images.
    """
    from trainer.robustness.results import record

    stored, (_, test) = record.read(path), _test_set(bundle, folder, name)
    images = record.images_of(stored, test, f"--attacked {path}")
    sets = {
        rung: record.attacked(stored, rung, images).numpy()
        for rung, steps in stored.perturbations.items()
        if steps.any()
    }
    return tuple(
        Labelled(rung, pixels, images.targets[: len(pixels)].numpy()) for rung, pixels in sets.items()
    )


def engine_feeds(manifest: Manifest, engine: Engine, images: Float, *, seed: int = SEED) -> list[Feeds]:
    """What ``engine`` takes: each image, and with a purifier a draw of its random inputs."""
    alone = Drawer(msgspec.structs.replace(manifest, purifiers=(engine,)), seed=seed)
    return [
        {"image": images[place : place + 1], **draw.random_inputs}
        for place, draw in enumerate(alone.draw(len(images)))
    ]


def purified_images(manifest: Manifest, backend: Backend, images: Float, *, seed: int = SEED) -> Float:
    """What classifiers take, (N, 3, H, W): each image as a purifier drawn at random leaves it."""
    draws = Drawer(manifest, seed=seed).draw(len(images))
    return np.concatenate(
        [
            backend.purify(draw.purifier, images[place : place + 1], draw.random_inputs).copy()
            for place, draw in enumerate(draws)
        ]
    )


def _test_set(bundle: Bundle, folder: Path, name: str | None) -> tuple[str, Any]:
    """The data set's name, and its test images."""
    manifest, n_classes = bundle.manifest, len(bundle.labels)
    name = name or manifest.provenance.get("config", {}).get("data", {}).get("name")
    if name is None:
        raise UsageError(
            f"--dataset: {manifest.name} doesn't say what it was trained on", hint="name the data set"
        )
    test = _opened(bundle, folder, "test", name)
    if len(test.labels) != n_classes:
        raise UsageError(
            f"--data {folder}: expected images of {manifest.name}'s {n_classes} classes, "
            f"{name} has {len(test.labels)}",
            hint="name another data set by --dataset",
        )
    return name, test


def _opened(bundle: Bundle, folder: Path, split: str, name: str) -> Any:
    """Images of a split; class folders in the order of the bundle's labels, and split as in training."""
    from trainer.data import open_as_trained

    manifest = bundle.manifest
    size = (manifest.image.height, manifest.image.width)
    return open_as_trained(
        manifest.provenance, folder, split, image_size=size, labels=bundle.labels, name=name
    )


def _floats(pixels: npt.NDArray[np.uint8]) -> Float:
    return np.divide(pixels, 255, dtype=np.float32)


def _tensor(rows: npt.NDArray[np.int64]) -> Any:
    import torch

    return torch.from_numpy(rows)
