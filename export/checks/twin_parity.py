"""How far every engine is off its twin, on the same images under the same draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.inputs.draws import engine_inputs
from export.inputs.synthetic_images import synthetic_images
from sdk.backends.interface import Backend
from sdk.bundle import Bundle
from sdk.bundle.deviation import Deviation, deviation
from trainer.models.defence import Defence, Draw

SEED = 1  # apart from the golden outputs' images and draws


def parity(bundle: Bundle, backend: Backend, twin: Defence, *, n_images: int = 64) -> list[Deviation]:
    """Run every engine and the twin on ``n_images`` images, each under its own draw; purifiers come first.

    A classifier is given the images as the twin purifies them: a purifier's error isn't counted against it.
    ``backend`` has the FP32 engines; lower precisions are held to those, by ``export.checks.fp32_parity``.
    """
    return purifier_parity(bundle, backend, twin, n_images=n_images) + classifier_parity(
        bundle,
        backend,
        twin,
        lambda images, index: twin.classify(images, _drawing(twin, classifier=index, count=len(images))),
        "twin",
        n_images=n_images,
    )


@torch.inference_mode()
def purifier_parity(
    bundle: Bundle, backend: Backend, twin: Defence, *, n_images: int = 64
) -> list[Deviation]:
    """The purifiers' part of ``parity``."""
    images, draw = _images_and_draws(bundle, twin, n_images)
    deviations = []
    for index, engine in enumerate(bundle.manifest.purifiers):
        held = replace(draw, purifier=torch.full_like(draw.purifier, index))
        got, expected = _purify(backend, index, images, held), twin.purify(images, held).numpy()
        deviations.append(deviation(engine.id, "purified image", "twin", got, expected))
    return deviations


@torch.inference_mode()
def classifier_parity(
    bundle: Bundle,
    backend: Backend,
    twin: Defence,
    classify: Callable[[Tensor, int], Tensor],
    against: str,
    *,
    n_images: int = 64,
) -> list[Deviation]:
    """The classifiers' part; ``classify`` maps purified images and a classifier's index to logits."""
    purified = twin.purify(*_images_and_draws(bundle, twin, n_images))
    return [
        deviation(
            engine.id,
            "logits",
            against,
            _classify(backend, index, purified),
            classify(purified, index).numpy(),
            relative=bundle.manifest.has_external_classifier,  # whose logits have a scale of their own
        )
        for index, engine in enumerate(bundle.manifest.classifiers)
    ]


def _images_and_draws(bundle: Bundle, twin: Defence, count: int) -> tuple[Tensor, Draw]:
    """Images (N, 3, H, W) and as many draws, the same at every call."""
    size = bundle.manifest.image
    images = synthetic_images(count, size.height, size.width, seed=SEED).float() / 255
    return images, twin.draw(count, torch.Generator().manual_seed(SEED))


def _drawing(twin: Defence, *, classifier: int, count: int) -> Draw:
    draw = twin.draw(count, torch.Generator().manual_seed(SEED))
    return replace(draw, classifier=torch.full_like(draw.classifier, classifier))


def _purify(backend: Backend, index: int, images: Tensor, draw: Draw) -> npt.NDArray[np.float32]:
    outputs = [
        backend.purify(index, images[n : n + 1].numpy(), engine_inputs(draw[n : n + 1])).copy()
        for n in range(len(images))
    ]
    return np.concatenate(outputs)  # (N, 3, H, W)


def _classify(backend: Backend, index: int, images: Tensor) -> npt.NDArray[np.float32]:
    outputs = [backend.classify(index, images[n : n + 1].numpy()).copy() for n in range(len(images))]
    return np.concatenate(outputs)  # (N, n_classes)
