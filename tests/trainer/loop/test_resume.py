"""A run that was killed goes on as if it had not been, and on nothing else than what it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdk.errors import UsageError
from tests.trainer.conftest import Prepare, small
from tests.trainer.helpers import weights
from trainer import checkpoint
from trainer.data import Images
from trainer.loop.fit import Report, fit
from trainer.loop.progress import Progress
from trainer.loop.run import Run

NAMES = (
    "ren-cifar10-edge-clean",
    "ren-cifar10-edge-at",
    "wrn-28-10-cifar10",
    "maep-cifar10-edge",
    "maep-cifar10-edge-adapters",
    "maep-cifar10-edge-atop",
)


class Killed(Exception):
    """Stands for a kill: raised from the reporter."""


def kill_at(step: int, *, pass_by: int = 0) -> Report:
    """A reporter that is killed after ``step``, when it comes by for the last of ``1 + pass_by`` times."""
    times = iter(range(pass_by, -1, -1))

    def report(progress: Progress) -> None:
        if progress.step == step and not progress.validation and next(times) == 0:
            raise Killed

    return report


def assert_same_end(one: Path, other: Path) -> None:
    expected, found = weights(one / "last.pt"), weights(other / "last.pt")
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "killed_at", [7, 13]
)  # the epochs have 10 steps; checkpoints lie at 4, 8, 10, 14, ...
def test_a_killed_and_resumed_run_equals_an_unbroken_one(
    name: str, killed_at: int, prepare: Prepare, tmp_path: Path
) -> None:
    overrides, training, validation = prepare(name)
    changes = ("optimizer.save_every=4", "loss.mask_ramp=[0.2, 0.6]", "recipe.eps=0.02")
    config = small(name, *changes, *overrides)
    training, validation = training[:640], validation[:100]
    fit(config, training, validation, tmp_path / "unbroken")
    with pytest.raises(Killed):
        fit(config, training, validation, tmp_path / "broken", report=kill_at(killed_at))
    fit(config, training, validation, tmp_path / "broken", resume=True)
    assert_same_end(tmp_path / "unbroken", tmp_path / "broken")


@pytest.mark.parametrize(("killed_at", "pass_by"), [(4, 0), (6, 0), (4, 1)])
def test_so_does_one_that_collapsed(
    killed_at: int, pass_by: int, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the epoch that collapses, or in its repetition; epochs have 3 steps, each saved."""

    def validate(run: Run, images: Images) -> dict[str, float]:
        collapsed = run.step == 6 and run.plain_objective.attack_steps == 1
        return {"purified": 0.5, "raw": 0.5, "robust": 0.5, "robust_now": 0.1 if collapsed else 0.5}

    monkeypatch.setattr(Run, "validate", validate)
    config = small("ren-cifar10-edge-at", "optimizer.epochs=3", "optimizer.save_every=1", "recipe.pgd_tail=0")
    data = digits[:192], digits[192:224]
    fit(config, *data, tmp_path / "unbroken")
    with pytest.raises(Killed):
        fit(config, *data, tmp_path / "broken", report=kill_at(killed_at, pass_by=pass_by))
    fit(config, *data, tmp_path / "broken", resume=True)
    assert_same_end(tmp_path / "unbroken", tmp_path / "broken")
    position = checkpoint.load(tmp_path / "broken" / "last.pt")["position"]
    assert (position["attack_steps"], position["rolled_back_to"]) == (2, 3)


def test_other_training_images_are_refused(digits: Images, tmp_path: Path) -> None:
    config, validation = small("ren-cifar10-edge-clean"), digits[1200:1232]
    training = digits[:128]
    with pytest.raises(Killed):
        fit(config, training, validation, tmp_path, report=kill_at(3))
    brighter = Images(training.pixels.clamp(min=1), training.targets, training.labels)
    relabelled = Images(training.pixels, training.targets.flip(0), training.labels)
    for other in (brighter, relabelled, digits[:192]):
        with pytest.raises(UsageError, match="--resume: --data holds other training images than the run in"):
            fit(config, other, validation, tmp_path, resume=True)
    fit(config, training, validation, tmp_path, resume=True)


def test_a_checkpoint_of_before_there_was_a_digest_goes_on(digits: Images, tmp_path: Path) -> None:
    config = small("ren-cifar10-edge-clean")
    with pytest.raises(Killed):
        fit(config, digits[:128], digits[128:160], tmp_path, report=kill_at(3))
    state = checkpoint.load(tmp_path / "last.pt")
    del state["data"], state["position"]["rolled_back_to"]
    checkpoint.save(tmp_path / "last.pt", state)
    with pytest.raises(UsageError, match="--data holds other training images"):
        fit(config, digits[:192], digits[192:224], tmp_path, resume=True)
    fit(config, digits[:128], digits[128:160], tmp_path, resume=True)
    assert checkpoint.load(tmp_path / "last.pt")["position"]["step"] == 4
