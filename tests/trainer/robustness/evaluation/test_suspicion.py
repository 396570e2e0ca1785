"""The suspicion whose ROC is measured is the one that the runtime reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sdk import Purifier
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.defences.judges import TorchJudge, seed_of
from trainer.robustness.defences.targets import open_target
from trainer.robustness.evaluation.diagnostics.suspicion import suspicion

N_IMAGES = 12
KEY = (0, "suspicion")


def test_it_is_what_a_frames_result_says(ren_bundle: Path, digits: tuple[Images, Images]) -> None:
    few = digits[1][:N_IMAGES]
    with open_target(ren_bundle, backend="onnxruntime") as target:
        (measured,) = suspicion(target.judge, next(few.batches(N_IMAGES))[0], draws=1, key=KEY)
    classifiers = set()
    for place, pixels in enumerate(few.pixels.numpy()):
        frame = np.ascontiguousarray(pixels.transpose(1, 2, 0)[..., ::-1])  # as OpenCV has it: HxWx3, BGR
        seed = seed_of((*KEY, place))
        how = {"backend": "onnxruntime", "precision": "fp32", "suspicion": True, "seed": seed}
        with Purifier.load(ren_bundle, **how) as purifier:
            result = purifier(frame)
        classifiers.add(result.draw.classifier)
        assert abs(result.suspicion - float(measured[place])) < 1e-5
    assert len(classifiers) > 1
    assert measured.max() > 0.01


def test_it_is_nothing_without_a_purifier(undefended: Defence, digits: tuple[Images, Images]) -> None:
    """Whoever is drawn says the same of the raw image, which only another classifier would not."""
    images, _ = next(digits[1][:N_IMAGES].batches(N_IMAGES))
    judge = TorchJudge(undefended, "torch")
    raw = judge.raw_probabilities(images)
    assert not torch.allclose(raw[0], raw[1], atol=1e-3)
    scores = suspicion(judge, images, draws=4, key=KEY)
    assert scores.shape == (4, N_IMAGES)
    assert scores.max() < 1e-6
