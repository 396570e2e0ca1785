"""Scores: their distance from accuracy, the temperature that corrects it, and what a threshold gains."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from sdk import Purifier
from sdk.bundle import Bundle
from sdk.errors import UsageError
from tests.trainer.helpers import write_untrained_bundle
from trainer.cli import main
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.evasion import be_accepted
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.losses import margin
from trainer.robustness.defences.judges import Key, TorchJudge, seed_of
from trainer.robustness.defences.surrogates import BankMean
from trainer.robustness.defences.targets import open_target
from trainer.robustness.evaluation.diagnostics.confidence import (
    COVERAGES,
    Scores,
    ask,
    calibration_error,
    fit_temperature,
    measure,
)
from trainer.robustness.results.calibration import calibrate, fit
from trainer.robustness.results.publish import calibrate_bundle


class Told:
    """A judge whose probabilities of class 1 are the images' brightness."""

    says = "brightness"

    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([1 - bright, bright], dim=1).expand(draws, -1, -1)

    def raw_probabilities(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def of_brightness(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_the_calibration_error_is_the_distance_of_score_and_accuracy() -> None:
    """Two bins: 0.9 is right in one of two, 0.6 in two of two: half of 0.4 and half of 0.4."""
    score = torch.tensor([0.9, 0.9, 0.6, 0.6], dtype=torch.float64)
    assert calibration_error(Scores(score, torch.tensor([True, False, True, True]))) == pytest.approx(0.4)
    assert calibration_error(Scores(torch.ones(3, dtype=torch.float64), torch.ones(3).bool())) == 0


def test_a_temperature_that_was_applied_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 4000, 5, generator=generator)
    labels = torch.multinomial(logits[0].softmax(-1), 1, generator=generator).squeeze(1)
    logits[1] = logits[0]
    for applied in (0.4, 1.0, 2.5):
        assert fit_temperature(applied * logits, labels) == pytest.approx(applied, rel=0.05)
    assert fit_temperature(logits.log_softmax(-1), labels) == pytest.approx(1, rel=0.05)


def test_a_threshold_is_named_by_its_coverage_of_clean_images() -> None:
    clean = of_brightness(0.95, 0.9, 0.8, 0.7, 0.6)
    attacked = of_brightness(0.1, 0.74, 0.35, 0.65, 0.55)
    labels = torch.ones(5, dtype=torch.int64)
    found = measure(Told(), {"clean": clean, "attack": attacked}, labels, draws=2, key=(0,))
    assert found.images == 5
    assert len(found.thresholds) == len(COVERAGES)
    at = found.thresholds[COVERAGES.index(0.6)]
    assert 0.7 < at.threshold < 0.8
    assert at.accepted["clean"].coverage == pytest.approx(0.6)
    assert at.accepted["clean"].risk == 0
    assert at.accepted["attack"].coverage == pytest.approx(1 / 5)  # 0.1, which is a sure error
    assert at.accepted["attack"].risk == 1
    everything = found.thresholds[-1].accepted["attack"]
    assert (everything.coverage, everything.risk) == pytest.approx((4 / 5, 1 / 2))  # 0.55 is below 0.6


def test_who_wants_to_be_accepted_errs_with_higher_scores(
    hardened: Defence, digits: tuple[Images, Images]
) -> None:
    images, labels = next(digits[1].batches(60))
    model, ball = BankMean(hardened, n_classes=10, samples=1), Ball("linf", 0.25)
    steps, judge = 15, TorchJudge(hardened, "torch")
    wanting = be_accepted(model, images, labels, ball=ball, steps=steps, generator=seeded())
    erring = pgd(model, images, labels, ball=ball, steps=steps, generator=seeded(), loss=margin, falling=True)
    scores = [ask(judge, found, labels, draws=4, key=(0,)) for found in (wanting, erring)]
    sure_errors = [float(((found.score > 0.8) & ~found.right).double().mean()) for found in scores]
    assert sure_errors[0] > sure_errors[1]


def test_the_runtime_answers_with_the_scores_that_were_calibrated(
    ren_bundle: Path, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(ren_bundle, tmp_path / "bundle"))
    few = digits[1][:150]
    with open_target(folder, backend="onnxruntime") as target:
        found = fit(target.judge, few)
        assert found.after <= found.before + 0.01
        calibrate_bundle(target.bundle, found.temperature, str(found))
    bundle = Bundle.open(folder)
    assert bundle.manifest.calibration.temperature == found.temperature
    card = bundle.path(bundle.manifest.card).read_text()
    assert card.count(f"a temperature of {found.temperature:.3f}, fitted on 150 validation images") == 1
    with open_target(folder, backend="onnxruntime") as target:
        again = fit(target.judge, few)
        assert again.temperature == pytest.approx(found.temperature, rel=0.01)  # not on top of the first
        (said,) = target.judge.probabilities(next(few[:1].batches(1))[0], draws=1, key=(3,))[0]
    pixels = np.ascontiguousarray(few.pixels[0].numpy().transpose(1, 2, 0)[..., ::-1])
    with Purifier.load(folder, backend="onnxruntime", precision="fp32", seed=seed_of((3, 0))) as purifier:
        assert purifier(pixels).probabilities == pytest.approx(said.numpy(), abs=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says what it was trained on."""
    return write_untrained_bundle(tmp_path_factory.mktemp("bundles") / "tiny", validation=10)


def test_the_command_reads_validation_images_alone(tiny: Path, tmp_path: Path) -> None:
    """There is no test batch in the folder."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        records = np.random.default_rng(number).integers(0, 256, (8, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"data_batch_{number}.bin")
    copy = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    found = CliRunner().invoke(main, ["calibrate", str(copy), "--data", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "fitted on 10 validation images under 4 draws each" in found.output
    assert Bundle.open(copy).manifest.calibration is not None


def test_a_bundle_without_validation_images_is_refused(ren_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no validation images; export it from a training run"):
        calibrate(ren_bundle, data=tmp_path, backend="onnxruntime", precision="fp32")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
