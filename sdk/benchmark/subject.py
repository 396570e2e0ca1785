"""The subject of a benchmark: a bundle's engines in ONNX Runtime, and a frame for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np

from sdk.arrays import Pixels
from sdk.backends import open_backend
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle, default_bundle
from sdk.errors import UsageError
from sdk.purifier import Purifier
from sdk.sources import Frame as SourceFrame
from sdk.sources import Source

MAX_SIDE = 8192  # pixels of a frame


@dataclass(frozen=True)
class Subject:
    """One bundle, its sessions loaded, and one frame.

    Attributes:
        precision: as it was asked for; ``backend.precision`` is what it came to.
        frames: how many frames a quantile may rest on.
    """

    bundle: Bundle
    backend: OnnxRuntimeBackend
    precision: str
    frame: Pixels
    votes: int
    frames: int

    @property
    def frame_size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.frame.shape[1], self.frame.shape[0]

    def purifier(self, votes: int = 1) -> Purifier:
        """A purifier on the sessions that are loaded already; it need not be closed."""
        return Purifier(self.bundle, self.backend, votes=votes)


def open_bundle(bundle: str | os.PathLike[str] | Bundle | None) -> Bundle:
    if isinstance(bundle, Bundle):
        return bundle
    return Bundle.open(default_bundle() if bundle is None else bundle)


def load(bundle: Bundle, precision: str) -> OnnxRuntimeBackend:
    """The bundle's sessions, which can also be run bare."""
    backend = open_backend(bundle, "onnxruntime", precision)
    assert isinstance(backend, OnnxRuntimeBackend)  # what was asked for by its name
    return backend


def with_bank_of(bundle: Bundle, purifiers: int) -> Bundle:
    """The bundle with so many purifiers: its first ones, or each of them several times over.

    A purifier that is there twice is two sessions of one file, which costs what two files would.
    """
    own = bundle.manifest.purifiers
    bank = tuple(
        msgspec.structs.replace(own[index % len(own)], id=f"purifier-{index:02d}")
        for index in range(purifiers)
    )
    manifest = msgspec.structs.replace(bundle.manifest, purifiers=bank)
    return Bundle(bundle.folder, manifest, bundle.labels, bundle.digest)


def natural_frame(width: int, height: int) -> Pixels:
    """Noise of several scales, whose spectrum falls off as a photograph's: ``(height, width, 3)`` BGR."""
    frame = np.full((height, width, 3), 128, np.float32)
    for cell, weight in ((64, 0.6), (16, 0.3), (1, 0.1)):
        rows, columns = -(-height // cell), -(-width // cell)
        noise = np.frombuffer(os.urandom(rows * columns * 3), np.uint8).reshape(rows, columns, 3)
        smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        frame += weight * (smooth.astype(np.float32) - 128)
    return frame.clip(0, 255).astype(np.uint8)


class Synthetic(Source):
    """``count`` frames of one size, a window that wanders over a natural frame; nothing is decoded."""

    STEPS = 64  # pixels that the window wanders, one a frame

    def __init__(self, width: int, height: int, count: int) -> None:
        self.name = "synthetic"
        self.total = count
        self._size = width, height
        self._scene = natural_frame(width + self.STEPS, height)

    def __iter__(self) -> Iterator[SourceFrame]:
        width, _ = self._size
        for index in range(self.total or 0):
            left = index % self.STEPS
            yield SourceFrame(self._scene[:, left : left + width], index, self.name)


def parse_size(text: str) -> tuple[int, int]:
    """``"1280x720"`` as (width, height).

    Raises:
        UsageError: it is not two positive integers, or over ``MAX_SIDE``.
    """
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    sides = [int(side) for side in match.groups()] if match else [0]
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise UsageError(f"--size {text}: expected WxH in pixels, up to {MAX_SIDE}, like 1280x720")
    return sides[0], sides[1]


def check_size(bundle: Bundle, frame_size: tuple[int, int]) -> None:
    """Raise a ``UsageError`` if frames of ``frame_size`` (width, height) are below the engines' images.

    Smaller ones are enlarged, which no integer factor can be held against.
    """
    image = bundle.manifest.image
    if frame_size[0] < image.width or frame_size[1] < image.height:
        raise UsageError(
            f"--size {frame_size[0]}x{frame_size[1]}: expected at least the engines' image, "
            f"{image.width}x{image.height}"
        )
