"""Choosing and scoring on different draws, and going on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.data import Images
from trainer.robustness.defences.judges import Key
from trainer.robustness.evaluation.ladder import Climber
from trainer.robustness.evaluation.steps import Batch, Outcome, Step
from trainer.robustness.evaluation.store import Store
from trainer.robustness.evaluation.worst import per_image_worst


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
    step = Step(name, None, len(chosen[0]), 1)
    return Outcome(
        step, torch.zeros(len(chosen[0]), 3, 1, 1), torch.tensor(chosen), torch.tensor(scored), 1.0
    )


def climber(images: Images, judge: Brightness, folder: Path, *, draws: int = 2) -> Climber:
    return Climber(images, judge, draws, seed=0, store=Store(folder, "key"))


def brightens(rows: list[int]) -> Callable[[Batch], Tensor]:
    """An attack on the images whose first pixel is the place that ``rows`` name; others stay."""

    def attack(given: Batch) -> Tensor:
        places = (255 * given.images[:, 0, 0, 0]).round().long().tolist()
        hit = torch.tensor([place in rows for place in places])
        return torch.where(hit[:, None, None, None], torch.ones_like(given.images), given.start)

    return attack


@pytest.fixture
def numbered() -> Images:
    """Seven dark images, the first pixel of each its place."""
    pixels = torch.zeros(7, 3, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(7)
    return Images(pixels, torch.zeros(7, dtype=torch.int64), ("dark", "bright"))


def test_a_rung_on_survivors_attacks_them_alone_and_takes_over_the_rest(
    numbered: Images, tmp_path: Path
) -> None:
    seen: list[list[int]] = []

    def late(given: Batch) -> Tensor:
        seen.append((255 * given.images[:, 0, 0, 0]).round().long().tolist())
        return brightens([2, 4, 6])(given)

    outcomes = climber(numbered, Brightness(), tmp_path).ladder(
        [
            Step("clean", None, 7, 3),
            Step("first", brightens([0, 1]), 7, 3),
            Step("late", late, 7, 2, survivors=3),
        ]
    )
    assert seen == [[2, 3], [4]]
    assert len(outcomes["late"]) == 5  # up to the last survivor that was attacked
    assert outcomes["late"].scored[0].tolist() == [1, 1, 1, 0, 1]
    assert (outcomes["late"].adversarial[:2] == 1).all()
    worst = per_image_worst(list(outcomes.values()), numbered.targets)
    assert worst.scored[0].tolist() == [1, 1, 1, 0, 1, 0, 0]
    assert worst.rung.attack.startswith("for each image the strongest of late 29 %, first 71 %")


def test_a_rung_on_every_survivor_is_about_all_images(numbered: Images, tmp_path: Path) -> None:
    steps = [Step("clean", None, 7, 3), Step("late", brightens([5]), 7, 2, survivors=10**9)]
    late = climber(numbered, Brightness(), tmp_path).ladder(steps)["late"]
    assert late.scored[0].tolist() == [0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("rows", "few", "expected"),
    [([1, 5], 3, [0, 1, 0, 0, 0, 1, 0]), ([5], 3, [0, 0, 0])],
    ids=["finds more", "finds nothing"],
)
def test_a_rung_on_few_images_goes_on_where_it_finds_more(
    rows: list[int], few: int, expected: list[int], numbered: Images, tmp_path: Path
) -> None:
    steps = [Step("clean", None, 7, 3), Step("few", brightens(rows), few, 2, extends=True)]
    outcome = climber(numbered, Brightness(), tmp_path).ladder(steps)["few"]
    assert outcome.scored[0].tolist() == expected
    assert ("on the survivors of the others" in outcome.step.says) == (len(expected) == 7)


def test_random_numbers_of_an_attack_depend_on_its_rung(numbered: Images, tmp_path: Path) -> None:
    """Rungs with one start would share its bad luck; a control shares its rung's start on purpose."""

    def noise(given: Batch) -> Tensor:
        return torch.rand(given.images.shape, generator=given.generator)

    climbs = climber(numbered, Brightness(), tmp_path)
    first, second = (climbs.climb(Step(name, noise, 7, 7)).adversarial for name in ("a", "b"))
    control = climbs.climb(Step("a, longer", noise, 7, 7, key="a")).adversarial
    assert not torch.equal(first, second)
    assert torch.equal(first, control)


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

    def brighten(given: Batch) -> Tensor:
        if len(attacked) == 2 and not (tmp_path / "again").exists():
            raise Killed
        attacked.append(len(given.images))
        return (given.images + torch.rand(given.images.shape, generator=given.generator)).clamp(0, 1)

    step = Step("brighten", brighten, 7, 2)

    def run(folder: Path) -> Outcome:
        return climber(images, Brightness(), folder).climb(step)

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
        Climber(images, judge, draws=3, seed=9, store=Store(tmp_path, "key")).climb(Step(name, None, 4, 2))
    assert judge.asked[:4] == [((9, kind), first, 2) for first in (0, 2) for kind in ("score", "choose")]
    assert judge.asked[4:] == judge.asked[:4]


def test_progress_ends_with_all_images(images: Images, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    store = Store(tmp_path, "key")
    watched = Climber(
        images, Brightness(), 1, seed=0, store=store, on_progress=lambda *step: told.append(step)
    )
    watched.climb(Step("clean", None, 7, 3))
    assert told == [("clean", 0, 7), ("clean", 3, 7), ("clean", 6, 7), ("clean", 7, 7)]
