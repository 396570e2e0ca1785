"""The gate's record: whole steps inside the ball, no image, and refused where it doesn't belong."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdk.errors import EdgePurifyError, UsageError
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.judges import TorchJudge
from trainer.robustness.evaluation.steps import Outcome, Step
from trainer.robustness.results import record
from trainer.robustness.results.record import Record

BALL = Ball("linf", 8 / 255)


def images(seed: int = 0, count: int = 5) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(10, (count,), generator=generator), tuple("0123456789"))


def moved(clean: Images, ball: Ball, seed: int = 0, count: int | None = None) -> Outcome:
    """Images moved to a random point of the ball."""
    pixels = clean.pixels[:count].float() / 255
    points = ball.project(pixels + torch.randn(pixels.shape), pixels)
    nothing = torch.zeros(1, len(pixels), dtype=torch.int64)
    return Outcome(Step("moved", "", None, len(pixels), 5), points, nothing, nothing, 0.0)


@pytest.fixture(scope="module")
def made(undefended: Defence) -> Record:
    judge = TorchJudge(undefended, "torch")
    clean = images()
    outcomes = {"all": moved(clean, BALL), "few": moved(clean, BALL, count=2)}
    return record.make("it", outcomes, clean, {"torch": judge}, ball=BALL, seed=3)


def test_survives_its_file(made: Record, undefended: Defence, tmp_path: Path) -> None:
    path = tmp_path / "record.npz"
    path.write_bytes(record.to_bytes(made))
    read = record.read(path)
    assert read.header == made.header
    assert read.rows.tolist() == [0, 1, 2, 3, 4]
    for rung in ("all", "few"):
        assert read.perturbations[rung].dtype == torch.int8
        assert torch.equal(read.perturbations[rung], made.perturbations[rung])
        assert torch.equal(read.chances["torch"][rung], made.chances["torch"][rung])
    again = record.chances(read, TorchJudge(undefended, "torch"), images())
    assert {rung: shares.tolist() for rung, shares in again.items()} == {
        rung: shares.tolist() for rung, shares in made.chances["torch"].items()
    }


def test_holds_no_image(made: Record) -> None:
    """Neither as an array nor by its value: other images with the same perturbations give the same file."""
    clean = images()
    assert made.header.pixels == hashlib.sha256(clean.pixels.numpy()).hexdigest()
    stored = [made.rows, made.labels, *made.perturbations.values(), *made.chances["torch"].values()]
    assert all(part.shape != clean.pixels.shape or part.abs().max() <= 8 for part in stored)


@given(
    st.integers(0, 2**30), st.sampled_from([("linf", 8 / 255), ("linf", 0.03), ("l2", 0.5), ("linf", 0.9)])
)
def test_whole_steps_stay_in_the_ball_and_near_the_attack(seed: int, size: tuple[str, float]) -> None:
    torch.manual_seed(seed)
    ball, clean = Ball(*size), images(seed, 2)
    outcome = moved(clean, ball)
    steps = record.make("it", {"moved": outcome}, clean, {}, ball=ball, seed=0).perturbations["moved"]
    delta = steps.double()
    length = delta.abs().max() if ball.norm == "linf" else delta.flatten(1).norm(dim=1).max()
    assert length <= 255 * ball.eps + 2e-3
    attacked = 255 * outcome.adversarial.double() - clean.pixels
    assert (delta - attacked).abs().max() <= 1
    assert steps.dtype == (torch.int16 if steps.abs().max() > 127 else torch.int8)


def test_finds_its_images_in_a_larger_set(made: Record) -> None:
    larger = Images(
        torch.cat([images().pixels, images(1).pixels]),
        torch.cat([images().targets, images(1).targets]),
        images().labels,
    )
    assert torch.equal(record.images_of(made, larger, "here").pixels, images().pixels)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (images()[:4], "here: expected at least 5 test images, got 4; name the folder with the same copy"),
        (images(1), "here: its 5 images are others than those in --data: expected sha256 .*, got .*; name"),
        (replace(images(), targets=1 - images().targets), "here: its 5 images are others"),
    ],
)
def test_refuses_other_images(made: Record, other: Images, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        record.images_of(made, other, "here")


def spoiled(made: Record, path: Path, **changes: np.ndarray | None) -> Path:
    path.write_bytes(record.to_bytes(made))
    with np.load(path) as stored:
        arrays = {**stored, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"header": None}, "not a record of --record .*header"),
        ({"header": np.array("{}")}, "not a record of --record .*missing required field"),
        ({"rows": np.zeros(0, np.int64)}, "its arrays are of different lengths"),
        ({"perturbation/few": np.zeros((9, 3, 16, 16), np.int8)}, "its arrays are of different lengths"),
        ({"chance/torch/few": np.zeros(3)}, "the chances of torch don't belong to its perturbations"),
        ({"chance/torch/few": None}, "the chances of torch don't belong to its perturbations"),
        ({"rows": np.array(["a"] * 5)}, "not a record of --record"),
    ],
)
def test_refuses_a_damaged_record(
    changes: dict[str, np.ndarray | None], reason: str, made: Record, tmp_path: Path
) -> None:
    with pytest.raises(EdgePurifyError, match=reason) as caught:
        record.read(spoiled(made, tmp_path / "record.npz", **changes))
    assert "\n" not in str(caught.value)


def test_refuses_what_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(EdgePurifyError, match=r"absent\.npz: can't be read: No such file"):
        record.read(tmp_path / "absent.npz")
    (tmp_path / "notes.npz").write_text("notes")
    with pytest.raises(EdgePurifyError, match=r"notes\.npz: not a record of --record .*record again"):
        record.read(tmp_path / "notes.npz")
