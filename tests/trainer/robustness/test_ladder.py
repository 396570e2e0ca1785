"""Choosing and scoring on different draws, and going on after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.data import Images
from trainer.robustness.defences.judges import Key
from trainer.robustness.evaluation.ladder import Outcome, Step, climb, per_image_worst
from trainer.robustness.evaluation.store import Store


class Killed(Exception):
    """Stands for a kill."""


class Brightness:
    """A judge that calls bright images 1 and dark ones 0, and counts what it is asked."""

    says = "brightness"

    def __init__(self) -> None:
        self.asked: list[tuple[Key, int, int]] = []

    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        self.asked.append((key, first, len(images)))
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([1 - bright, bright], dim=1).expand(draws, -1, -1)

    def raw_probabilities(self, images: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.fixture
def images() -> Images:
    """Seven dark images, labelled dark."""
    return Images(
        torch.zeros(7, 3, 4, 4, dtype=torch.uint8), torch.zeros(7, dtype=torch.int64), ("dark", "bright")
    )


def outcome(name: str, chosen: list[list[int]], scored: list[list[int]]) -> Outcome:
    step = Step(name, "", None, len(chosen[0]), 1)
    return Outcome(
        step, torch.zeros(len(chosen[0]), 3, 1, 1), torch.tensor(chosen), torch.tensor(scored), 1.0
    )


def test_worst_is_chosen_on_one_set_of_draws_and_scored_on_another() -> None:
    """Labels are all 0.  What is chosen is right whenever it is scored, though the other attack is not."""
    first = outcome("first", chosen=[[0, 0, 1], [0, 0, 1]], scored=[[1, 1, 0], [1, 1, 0]])
    second = outcome("second", chosen=[[1, 0, 0], [0, 0, 0]], scored=[[0, 0, 1], [0, 0, 1]])
    worst = per_image_worst([second, first], torch.zeros(3, dtype=torch.int64)).rung
    # image 0: second; image 2: first; image 1: a tie, so first, which leaves less over all images
    assert worst.counts.expected.share == pytest.approx(2 / 3)
    assert "first 67 %, second 33 %" in worst.attack
    assert worst.seconds == 2.0


def test_worst_takes_what_reached_the_image() -> None:
    """A rung that attacked fewer images says nothing of the others."""
    everywhere = outcome("clean", chosen=[[0, 0]], scored=[[0, 0]])
    few = outcome("few", chosen=[[1]], scored=[[1]])
    worst = per_image_worst([everywhere, few], torch.zeros(2, dtype=torch.int64)).rung
    assert worst.counts.expected.share == 0.5


def test_resumes_at_the_batch_it_was_killed_in(images: Images, tmp_path: Path) -> None:
    attacked: list[int] = []

    def brighten(pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        if len(attacked) == 2 and not (tmp_path / "again").exists():
            raise Killed
        attacked.append(len(pixels))
        return (pixels + torch.rand(pixels.shape, generator=generator)).clamp(0, 1)

    step = Step("brighten", "", brighten, 7, 2)

    def run(folder: Path) -> Outcome:
        store = Store(folder, "key")
        return climb(
            step,
            images,
            Brightness(),
            draws=2,
            seed=0,
            store=store,
            on_progress=lambda what, done, total: None,
        )

    with pytest.raises(Killed):
        run(tmp_path / "a")
    (tmp_path / "again").touch()
    resumed = run(tmp_path / "a")
    assert attacked == [2, 2, 2, 1]
    unbroken = run(tmp_path / "b")
    assert torch.equal(resumed.adversarial, unbroken.adversarial)
    assert torch.equal(resumed.scored, unbroken.scored)


def test_chooses_and_scores_by_different_keys_that_no_rung_changes(images: Images, tmp_path: Path) -> None:
    judge = Brightness()
    for name in ("one", "other"):
        climb(
            Step(name, "", None, 4, 2),
            images,
            judge,
            draws=3,
            seed=9,
            store=Store(tmp_path, "key"),
            on_progress=lambda what, done, total: None,
        )
    assert judge.asked[:4] == [((9, kind), first, 2) for first in (0, 2) for kind in ("score", "choose")]
    assert judge.asked[4:] == judge.asked[:4]


def test_progress_ends_with_all_images(images: Images, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    climb(
        Step("clean", "", None, 7, 3),
        images,
        Brightness(),
        draws=1,
        seed=0,
        store=Store(tmp_path, "key"),
        on_progress=lambda *step: told.append(step),
    )
    assert told == [("clean", 0, 7), ("clean", 3, 7), ("clean", 6, 7), ("clean", 7, 7)]
