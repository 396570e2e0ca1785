"""How far every engine is off its twin, on the same images under the same draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.draws import engine_inputs
from export.gate import Deviation, max_abs
from export.images import synthetic_images
from sdk.backends.base import Backend
from sdk.bundle import Bundle
from trainer.models.defence import Defence, Draw

SEED = 1  # apart from the golden outputs' images and draws


@torch.inference_mode()
def parity(bundle: Bundle, backend: Backend, twin: Defence, *, n_images: int = 64) -> list[Deviation]:
    """Run every engine and the twin on ``n_images`` images, each under its own draw; purifiers come first.

    A classifier is given the images as the twin purifies them: a purifier's error isn't counted against it.
    """
    size = bundle.manifest.image
    images = synthetic_images(n_images, size.height, size.width, seed=SEED).float() / 255  # (N, 3, H, W)
    draw = twin.draw(n_images, torch.Generator().manual_seed(SEED))
    purified = twin.purify(images, draw)
    deviations = []
    for index, engine in enumerate(bundle.manifest.purifiers):
        held = replace(draw, purifier=torch.full_like(draw.purifier, index))
        error = max_abs(_purify(backend, index, images, held), twin.purify(images, held).numpy())
        deviations.append(Deviation(engine.id, "purified image", "twin", error, n_images))
    for index, engine in enumerate(bundle.manifest.classifiers):
        held = replace(draw, classifier=torch.full_like(draw.classifier, index))
        error = max_abs(_classify(backend, index, purified), twin.classify(purified, held).numpy())
        deviations.append(Deviation(engine.id, "logits", "twin", error, n_images))
    return deviations


def _purify(backend: Backend, index: int, images: Tensor, draw: Draw) -> npt.NDArray[np.float32]:
    outputs = [
        backend.purify(index, images[n : n + 1].numpy(), engine_inputs(draw[n : n + 1])).copy()
        for n in range(len(images))
    ]
    return np.concatenate(outputs)  # (N, 3, H, W)


def _classify(backend: Backend, index: int, images: Tensor) -> npt.NDArray[np.float32]:
    outputs = [backend.classify(index, images[n : n + 1].numpy()).copy() for n in range(len(images))]
    return np.concatenate(outputs)  # (N, n_classes)
