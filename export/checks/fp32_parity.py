"""How far the engines of a lower precision are off the FP32 engines, under the same draws."""

from __future__ import annotations

import numpy as np

from export.inputs.calibration import Feeds, engine_feeds, purified_images
from sdk.backends.interface import Backend, Float
from sdk.bundle import Bundle
from sdk.bundle.deviation import Deviation, deviation

AGAINST = "FP32 engine"
SEED = 4  # of the draws; apart from the calibration's


def parity_fp32(bundle: Bundle, candidate: Backend, reference: Backend, images: Float) -> list[Deviation]:
    """Run every engine of both backends on ``images`` (N, 3, H, W), each under its own draw; purifiers first.

    A purifier's top-1 agreement is that of the first FP32 classifier on its images; a classifier is given
    the images as the FP32 purifiers leave them.
    """
    manifest, precision = bundle.manifest, candidate.precision
    deviations = []
    for index, engine in enumerate(manifest.purifiers):
        feeds = engine_feeds(manifest, engine, images, seed=SEED)
        got, expected = (_purified(backend, index, feeds) for backend in (candidate, reference))
        agree = _agreement(_classified(reference, 0, got), _classified(reference, 0, expected))
        deviations.append(
            deviation(engine.id, "purified image", AGAINST, got, expected, precision, top1=agree)
        )
    purified = purified_images(manifest, reference, images, seed=SEED)
    for index, engine in enumerate(manifest.classifiers):
        got, expected = (_classified(backend, index, purified) for backend in (candidate, reference))
        top1 = _agreement(got, expected)
        deviations.append(deviation(engine.id, "logits", AGAINST, got, expected, precision, top1=top1))
    return deviations


def _purified(backend: Backend, index: int, feeds: list[Feeds]) -> Float:
    outputs = []
    for feed in feeds:
        draw = {name: value for name, value in feed.items() if name != "image"}
        outputs.append(backend.purify(index, feed["image"], draw).copy())
    return np.concatenate(outputs)  # (N, 3, H, W)


def _classified(backend: Backend, index: int, images: Float) -> Float:
    return np.concatenate([backend.classify(index, image[None]).copy() for image in images])  # (N, n_classes)


def _agreement(got: Float, expected: Float) -> float:
    return float((got.argmax(-1) == expected.argmax(-1)).mean())
