"""Calibrate a bundle's scores: a temperature, fitted on the images that training held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sdk.errors import UsageError
from trainer.data import Images, open_as_trained, split_validation
from trainer.robustness.defences.judges import EngineJudge
from trainer.robustness.defences.targets import Target, open_target
from trainer.robustness.evaluation.diagnostics.confidence import Scores, calibration_error, fit_temperature
from trainer.robustness.evaluation.evaluate import check_fit
from trainer.robustness.results.publish import calibrate_bundle

DRAWS = 4  # of each image, as the product draws: one engine pair at a time
KEY = (0, "calibrate")


@dataclass(frozen=True)
class Calibrated:
    """The temperature, and the expected calibration error in [0, 1] without it and with it."""

    temperature: float
    before: float
    after: float
    images: int

    def __str__(self) -> str:
        before, after = 100 * self.before, 100 * self.after
        return (
            f"Scores are calibrated by a temperature of {self.temperature:.3f}, fitted on {self.images} "
            f"validation images under {DRAWS} draws each: expected calibration error {after:.1f} %, "
            f"without it {before:.1f} %."
        )


def calibrate(path: Path, *, data: Path, backend: str, precision: str) -> Calibrated:
    """Fit a temperature for the bundle at ``path`` and write it into its manifest and model card.

    The images are those held out from training, so no test image is read.

    Raises:
        EdgePurifyError: no bundle, no validation images, or a folder that can't be written.
    """
    with open_target(path, backend=backend, precision=precision) as target:
        if target.bundle is None or not isinstance(target.judge, EngineJudge):
            raise UsageError(f"{path}: expected a bundle, got a checkpoint", hint="export it first")
        images = _validation(target, data)
        found = fit(target.judge, images)
        calibrate_bundle(target.bundle, found.temperature, str(found))
    return found


def fit(judge: EngineJudge, images: Images) -> Calibrated:
    """The temperature of ``judge`` on ``images`` under fresh draws, whatever temperature it has now."""
    (pixels, labels), *_ = images.batches(len(images))
    probabilities = judge.probabilities(pixels, draws=DRAWS, key=KEY).double()
    logits = judge.temperature * probabilities.clamp(min=1e-30).log()  # but for a constant
    temperature = fit_temperature(logits, labels)
    before, after = (_error(logits / divisor, labels) for divisor in (1.0, temperature))
    return Calibrated(temperature, before, after, len(images))


def _error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    score, answer = logits.softmax(-1).max(-1)
    return calibration_error(Scores(score.flatten(), (answer == labels).flatten()))


def _validation(target: Target, data: Path) -> Images:
    """The images that training held out."""
    config = target.provenance.get("config", {}).get("data", {})
    name, count = config.get("name"), config.get("validation")
    if name is None or not count:
        raise UsageError(
            f"{target.name}: its provenance names no validation images", hint="export it from a training run"
        )
    training = open_as_trained(
        target.provenance, data, "train", image_size=(target.height, target.width), labels=target.labels
    )
    _, held_out = split_validation(training, count)
    images = held_out[:]
    check_fit(target, images)
    return images
