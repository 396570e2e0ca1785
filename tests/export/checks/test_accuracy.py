"""The accuracy that a lower precision costs: paired, bounded from above, on clean and on attacked images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from export.checks import verify
from export.checks.accuracy import Drop, PairedAccuracy, upper_bound
from export.inputs.calibration import attacked_images, self_made_images
from export.inputs.labelled import Labelled
from export.inputs.synthetic_images import synthetic_images
from sdk.backends import open_backend
from sdk.backends.interface import Backend, Float
from sdk.bundle import Bundle
from sdk.errors import EdgePurifyError, GateError, UsageError
from tests.export.cli.helpers import assert_one_line, run
from tests.export.conftest import LABELS
from trainer.data import Images, open_dataset
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.evaluation.steps import Outcome, Step
from trainer.robustness.results import record


class Forgetful:
    """A backend of FP16 whose classifier 1 answers another class on every ``every``-th image."""

    precision = "fp16"

    def __init__(self, honest: Backend, every: int) -> None:
        self.honest, self.every, self.asked = honest, every, 0

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        return self.honest.purify(purifier, image, random_inputs)

    def classify(self, classifier: int, image: Float) -> Float:
        logits = self.honest.classify(classifier, image)
        self.asked += classifier == 1
        return np.roll(logits, 1) if classifier == 1 and self.asked % self.every == 0 else logits


def labelled_by(bundle: Bundle, backend: Backend, count: int) -> Labelled:
    """Self-made pictures under the labels that the first draw of each gives them."""
    images = self_made_images(bundle.manifest, count)
    accuracy = PairedAccuracy(bundle, backend, Labelled("clean", images, np.zeros(count, np.int64)))
    labels = [
        int(
            backend.classify(
                draw.classifier, backend.purify(draw.purifier, image[None], draw.random_inputs)
            ).argmax()
        )
        for image, draw in zip(images, accuracy.draws[::2], strict=True)
    ]
    return Labelled("clean", images, np.array(labels))


def test_the_upper_bound_is_that_of_agresti_and_min() -> None:
    drops = np.array([1.0] * 12 + [-1.0] * 4 + [0.0] * 184)  # 12 lost, 4 gained, of 200
    mean = 8 / 202
    deviation_of_it = math.sqrt(((12 + 0.5 + 4 + 0.5) / 202 - mean**2) / 202)
    assert upper_bound(drops) == pytest.approx(mean + 1.645 * deviation_of_it)


def test_too_few_images_prove_nothing_and_a_thousand_that_agree_do() -> None:
    assert upper_bound(np.zeros(50)) > 0.025
    assert upper_bound(np.zeros(1000)) < 0.002


def drop_of(lost: np.ndarray) -> Drop:
    """The Drop of per-image losses."""
    points = 100 * float(lost.mean())
    return Drop(
        "fp16", "clean", len(lost), 2, 100.0, 100.0 - points, points, 100 * upper_bound(lost), "classifier-00"
    )


def test_with_too_few_pictures_it_says_how_many_are_enough() -> None:
    few = drop_of(np.zeros(36))
    assert few.complaint is not None
    assert "fp16: too few pictures to tell: 36 clean images" in few.complaint
    assert few.complaint.endswith(f"give at least {few.enough}")
    assert few.enough > 36
    assert drop_of(np.zeros(few.enough)).complaint is None


def test_with_a_small_drop_as_many_pictures_as_it_asks_for_are_enough() -> None:
    lost = np.zeros(200)
    lost[0] = 1.0
    few = drop_of(lost)
    assert few.complaint is not None
    assert drop_of(np.tile(lost, math.ceil(few.enough / 200))).complaint is None


def test_a_drop_beyond_the_bound_is_not_for_want_of_pictures() -> None:
    lost = np.zeros(1000)
    lost[:100] = 1.0
    complaint = drop_of(lost).complaint
    assert complaint is not None
    assert "classifier-00 in fp16: accuracy on 1000 clean images falls from 100.0 to 90.0 %" in complaint


def test_the_bound_covers_the_true_drop_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.choice([1.0, -1.0, 0.0], p=[0.03, 0.02, 0.95], size=(2000, 500))
    covered = np.mean([upper_bound(row) >= 0.01 for row in outcomes])
    assert 0.93 <= covered <= 0.985


def test_engines_that_answer_alike_lose_nothing_and_forgetful_ones_are_named(lowered: Path) -> None:
    bundle = Bundle.open(lowered)
    with closing(open_backend(bundle, "onnxruntime", "fp32")) as full:
        labelled = labelled_by(bundle, full, 150)
        accuracy = PairedAccuracy(bundle, full, labelled)
        same = accuracy.drop(Forgetful(full, every=10**9))  # type: ignore[arg-type]
        assert (same.drop, same.complaint) == (0.0, None)
        assert same.fp32 > 50
        lossy = accuracy.drop(Forgetful(full, every=2))  # type: ignore[arg-type]
    assert lossy.engine == "classifier-01"
    assert lossy.drop > 3
    assert lossy.complaint is not None
    assert lossy.complaint.startswith("classifier-01 in fp16: accuracy on 150 clean images falls from ")
    assert "expected at most 1.5, the draws of this engine having lost the most" in lossy.complaint


def test_a_drop_fails_verification(lowered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(lowered)
    opened = verify.open_backend

    def lossy(bundle: Bundle, precision: Any, *, graphs: Any) -> Any:
        honest = opened(bundle, "onnxruntime", precision)
        return honest if precision != "fp16" else Lossy(honest)

    class Lossy(Forgetful):
        def __init__(self, honest: Backend) -> None:
            super().__init__(honest, every=3)
            self.name, self.version, self.close = honest.name, honest.version, honest.close

    with closing(opened(bundle, "onnxruntime", "fp32")) as full:
        labelled = labelled_by(bundle, full, 120)
    verify.verify(bundle, n_images=8, labelled=[labelled])
    monkeypatch.setattr(verify, "OnnxRuntimeBackend", lossy)
    monkeypatch.setattr(verify, "replay", lambda *arguments: [])
    monkeypatch.setattr(verify, "parity_fp32", lambda *arguments: [])
    with pytest.raises(
        GateError, match=r"^classifier-01 in fp16: accuracy on 120 clean images.*worst layers: "
    ):
        verify.verify(bundle, n_images=8, labelled=[labelled])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five test images of four classes, in folders."""
    images = synthetic_images(5, 16, 16).numpy()
    for place, image in enumerate(images):
        for split in ("train", "val"):
            file = tmp_path / "data/imagenet" / split / LABELS[place % 4] / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image.transpose(1, 2, 0)[:, :, ::-1])
    return tmp_path / "data"


def recorded(pictures: Path, path: Path) -> tuple[Images, Path]:
    """The test images, and a record of what two attacks did to them; the second left them as they are."""
    clean = open_dataset("imagenet", pictures, "test", image_size=16, classes=LABELS)[:]
    floats = clean.pixels.float() / 255
    moved = {"pgd": (floats + 8 / 255).clamp(max=1), "clean": floats}
    answers = torch.zeros(1, 5, dtype=torch.int64)
    outcomes = {
        name: Outcome(Step(name, "", None, 5, 5), pixels, answers, answers, 0.0)
        for name, pixels in moved.items()
    }
    made = record.make("it", outcomes, clean, {}, ball=Ball("linf", 8 / 255), seed=0)
    path.write_bytes(record.to_bytes(made))
    return clean, path


def test_attacked_images_are_judged_like_clean_ones(lowered: Path, pictures: Path, tmp_path: Path) -> None:
    clean, path = recorded(pictures, tmp_path / "record.npz")
    (read,) = attacked_images(Bundle.open(lowered), path, pictures, "imagenet")
    assert (read.says, read.images.dtype, read.labels.tolist()) == ("pgd", np.float32, clean.targets.tolist())
    assert np.array_equal((read.images * 255).round(), np.minimum(clean.pixels.numpy() + 8.0, 255))
    options = ("--data", pictures, "--dataset", "imagenet", "--attacked", path)
    result = run("verify", lowered, "--images", 2, *options)
    # five images can't prove that at most 1.5 points are lost, even if they agree
    assert_one_line(result, 3, "too few pictures to tell: 5 ", "expected at most 1.5", "give at least 110")


def test_attacked_images_need_the_data_set_that_they_are_of(
    lowered: Path, pictures: Path, tmp_path: Path
) -> None:
    _, path = recorded(pictures, tmp_path / "record.npz")
    result = run("verify", lowered, "--images", 2, "--attacked", path)
    assert_one_line(result, 2, "--attacked: needs --data")
    (pictures / "imagenet/val/truck/3.png").unlink()
    shutil.copy(pictures / "imagenet/val/cat/0.png", pictures / "imagenet/val/truck/3.png")
    with pytest.raises(UsageError, match=r"--attacked .*its 5 images are others than those in --data"):
        attacked_images(Bundle.open(lowered), path, pictures, "imagenet")


def test_a_file_that_holds_no_attacked_images(lowered: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.npz").write_text("notes")
    with pytest.raises(EdgePurifyError, match="not a record of --record"):
        attacked_images(Bundle.open(lowered), tmp_path / "notes.npz", pictures, "imagenet")
