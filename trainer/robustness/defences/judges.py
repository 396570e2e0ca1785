"""Who says what an image is taken for: the exported engines of a bundle, or a checkpoint's torch model.

The draws of an image depend on the ``key`` and on its place in the data set, and on nothing else. So a
figure can be measured again, in other batches, and two versions of a defence are compared image by image
under the same draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sdk.backends.interface import Backend
from sdk.bundle import Bundle
from sdk.draw import Draw, Drawer
from sdk.errors import BackendError
from trainer.data import keyed_generator
from trainer.models import Defence
from trainer.models import Draw as TorchDraw

Key = tuple[int | str, ...]

TORCH_BATCH = 250


class Judge(Protocol):
    """Answers with probabilities; ``images`` are (B, 3, H, W) in [0, 1]."""

    @property
    def says(self) -> str:
        """What judges, for the report."""
        ...

    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        """Through the whole defence, each image under ``draws`` fresh draws: (draws, B, n_classes).

        ``first`` is the place of the first image in its data set.
        """
        ...

    def raw_probabilities(self, images: Tensor) -> Tensor:
        """By every classifier on the images as they are, without a purifier: (J, B, n_classes)."""
        ...


class DrawingJudge(Judge, Protocol):
    """A judge that also says what it draws."""

    def drawn_classifiers(self, count: int, *, draws: int, key: Key) -> Tensor:
        """Which classifier each of the draws of ``probabilities`` takes: (draws, count), int64."""
        ...


class EngineJudge:
    """The engines of a bundle, one image at a time, as a device runs them: with the bundle's calibration."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.manifest = bundle.manifest
        self.backend = backend
        self.says = f"{backend.name} {backend.version} {backend.precision} engines"
        calibration = bundle.manifest.calibration
        self.temperature = 1.0 if calibration is None else calibration.temperature

    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        logits = []
        for place, image in enumerate(_one_by_one(images), start=first):
            logits.append([self._defended(image, draw) for draw in self._draws(draws, (*key, place))])
        return _stacked(logits, self.temperature)

    def drawn_classifiers(self, count: int, *, draws: int, key: Key) -> Tensor:
        """Which classifier each of the draws of ``probabilities`` takes: (draws, count), int64."""
        per_image = [self._draws(draws, (*key, place)) for place in range(count)]
        return torch.tensor([[draw.classifier for draw in drawn] for drawn in per_image]).T

    def raw_probabilities(self, images: Tensor) -> Tensor:
        members = range(len(self.manifest.classifiers))
        logits = [[self._raw(image, member) for member in members] for image in _one_by_one(images)]
        return _stacked(logits, self.temperature)

    def _draws(self, draws: int, key: Key) -> tuple[Draw, ...]:
        return Drawer(self.manifest, seed=seed_of(key)).draw(draws)

    def _defended(self, image: np.ndarray, draw: Draw) -> np.ndarray:
        purified = self.backend.purify(draw.purifier, image, draw.random_inputs)
        return self._raw(purified, draw.classifier)

    def _raw(self, image: np.ndarray, member: int) -> np.ndarray:
        logits: np.ndarray = self.backend.classify(member, image)[0].copy()  # it may reuse its buffer
        return logits


class TorchJudge:
    """A defence in torch."""

    def __init__(self, defence: Defence, says: str) -> None:
        self.defence = defence
        self.says = says

    @torch.inference_mode()
    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        draw = self._draws(range(first, first + len(images)), draws, key)
        repeated = images.repeat_interleave(draws, dim=0)
        parts = [slice(start, start + TORCH_BATCH) for start in range(0, len(repeated), TORCH_BATCH)]
        logits = torch.cat([self.defence(repeated[part], draw[part]) for part in parts])
        return logits.softmax(-1).view(len(images), draws, -1).transpose(0, 1)

    @torch.inference_mode()
    def raw_probabilities(self, images: Tensor) -> Tensor:
        return torch.cat(
            [self.defence.classifier.all_logits(part) for part in torch.split(images, TORCH_BATCH)], 1
        ).softmax(-1)

    def drawn_classifiers(self, count: int, *, draws: int, key: Key) -> Tensor:
        """Which classifier each of the draws of ``probabilities`` takes: (draws, count), int64."""
        result: Tensor = self._draws(range(count), draws, key).classifier.view(count, draws).T
        return result

    def _draws(self, places: range, draws: int, key: Key) -> TorchDraw:
        return _joined([self.defence.draw(draws, keyed_generator(*key, place)) for place in places])


def _one_by_one(images: Tensor) -> Iterator[np.ndarray]:
    """Each image as an engine takes it: float32 (1, 3, H, W), contiguous."""
    for image in images:
        yield image[None].contiguous().numpy()


def _stacked(logits: list[list[np.ndarray]], temperature: float) -> Tensor:
    """Probabilities (D, B, n_classes) of logits that were asked image by image."""
    found = np.array(logits)  # (B, D, n_classes)
    if not np.isfinite(found).all():
        raise BackendError(
            "the engines gave NaN or infinite logits, which the runtime would refuse",
            hint="export the bundle again",
        )
    return torch.from_numpy(found / np.float32(temperature)).transpose(0, 1).softmax(-1)


def _joined(draws: list[TorchDraw]) -> TorchDraw:
    return TorchDraw(
        torch.cat([draw.purifier for draw in draws]),
        torch.cat([draw.classifier for draw in draws]),
        torch.cat([draw.random_input for draw in draws]),
    )


def seed_of(key: Key) -> int:
    """What the draws of ``EngineJudge`` are seeded with, for an image whose place ends the ``key``."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")
