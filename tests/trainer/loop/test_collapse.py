"""A run that goes wrong: it is rolled back once, and ends in a line before it writes what is of no use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import Prepare, small
from tests.trainer.helpers import weights
from trainer import checkpoint
from trainer.data import Images
from trainer.loop.fabric import open_fabric
from trainer.loop.fit import fit
from trainer.loop.progress import Progress
from trainer.loop.run import Run, TrainingError


def collapse_once(monkeypatch: pytest.MonkeyPatch, *, at: int, times: int = 1) -> None:
    """Let the run's probe fall at the end of the epoch that ends with step ``at``, so many times."""
    left = iter([0.1] * times)

    def validate(run: Run, images: Images) -> dict[str, float]:
        probe = next(left, 0.5) if run.step == at else 0.5
        return {"purified": 0.5, "raw": 0.5, "robust": 0.5, "robust_now": probe}

    monkeypatch.setattr(Run, "validate", validate)


@pytest.mark.parametrize(
    ("name", "overrides", "attack_steps"),
    [
        ("ren-cifar10-edge-at", (), 2),
        ("ren-cifar10-edge-at", ("recipe.pgd_tail=1.0",), 3),  # the collapse was trained by two
        ("plain-cifar10-edge-at", ("optimizer.save_every=1",), 2),
        ("maep-cifar10-edge-atop", ("recipe.attack_steps=3", "optimizer.save_every=1"), 4),
    ],
)
def test_a_collapse_rolls_back_and_goes_on_with_one_attack_step_more(
    name: str,
    overrides: tuple[str, ...],
    attack_steps: int,
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin, training, validation = prepare(name)
    collapse_once(monkeypatch, at=4)
    seen: list[int] = []
    begun_with: list[torch.Tensor] = []

    def report(progress: Progress) -> None:
        if progress.validation:
            seen.append(progress.step)
            state = checkpoint.load(tmp_path / "last.pt")["model"]
            begun_with.append(torch.cat([tensor.flatten() for tensor in state.values()]))

    config = small(name, "optimizer.epochs=3", *overrides, *begin)
    fit(config, training[:128], validation[:32], tmp_path, report=report)
    assert seen == [2, 2, 4, 6]  # the second epoch was done twice
    assert torch.equal(begun_with[0], begun_with[1])  # from the end of the first, whatever was saved since
    assert checkpoint.load(tmp_path / "last.pt")["position"]["attack_steps"] == attack_steps


def test_more_attack_steps_are_taken(digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def pgd(loss_of, images, *, steps: int, **options: object) -> torch.Tensor:
        taken.append(steps)
        return images

    monkeypatch.setattr("trainer.objectives.adversarial.pgd", pgd)
    collapse_once(monkeypatch, at=4)
    plain = ("optimizer.epochs=3", "recipe.pgd_tail=0.67", "recipe.weight_perturbation=0")
    config = small("ren-cifar10-edge-at", *plain)  # no weights to move: the attack above takes no gradient
    fit(config, digits[:128], digits[128:160], tmp_path)
    assert taken == [2, 2, 3, 3, 3, 3]  # the tail begins with the second epoch, which collapses


def test_a_second_collapse_ends_the_run(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collapse_once(monkeypatch, at=4, times=2)
    config = small("ren-cifar10-edge-at", "optimizer.epochs=3", "optimizer.save_every=1")
    told = (
        "robust accuracy collapsed again from step 2 on, with 2 attack steps; lower optimizer.learning_rate"
    )
    with pytest.raises(TrainingError, match=told):
        fit(config, digits[:128], digits[128:160], tmp_path)
    assert checkpoint.load(tmp_path / "epoch.pt")["position"]["step"] == 2


@pytest.mark.parametrize("name", ["ren-cifar10-edge-clean", "plain-cifar10-edge-at"])
def test_a_loss_that_is_no_number_ends_the_run(name: str, digits: Images, tmp_path: Path) -> None:
    config = small(
        name,
        "optimizer.learning_rate=1e9",
        "optimizer.purifier_learning_rate=1e9",
        "optimizer.save_every=1",
        "optimizer.warmup=0",
    )
    with pytest.raises(TrainingError, match=r"step \d+: .*; lower optimizer\.learning_rate or") as caught:
        fit(config, digits[:1200], digits[1200:1232], tmp_path)
    assert "\n" not in str(caught.value)
    for path in tmp_path.iterdir():
        assert all(tensor.isfinite().all() for tensor in weights(path).values())


def test_weights_that_are_no_numbers_replace_no_checkpoint(digits: Images, tmp_path: Path) -> None:
    run = Run(small("ren-cifar10-edge-clean"), open_fabric("32-true"), digits[:64], tmp_path)
    run.save({"purified": 0.1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run.averaged.module.purifier.dictionary.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="step 0: a weight is not finite"):
        run.save({"purified": 0.2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
