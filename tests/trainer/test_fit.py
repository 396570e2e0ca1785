"""The loop: it learns, it resumes exactly, it rolls back a collapse, and two processes equal one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sdk.errors import UsageError
from tests.trainer.conftest import read_digits, small
from trainer import checkpoint
from trainer.data import Images
from trainer.fit import fit
from trainer.progress import Progress
from trainer.run import Run

RECIPES = ("ren-cifar10-edge-clean", "ren-cifar10-edge-at")


class Killed(Exception):
    """Stands for a kill: raised from the reporter."""


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(path)
    return {**state["model"], **{f"averaged.{name}": value for name, value in state["averaged"].items()}}


@pytest.mark.parametrize("name", [*RECIPES, "plain-cifar10-edge-at"])
def test_the_loss_falls_and_the_checkpoint_classifies(name: str, digits: Images, tmp_path: Path) -> None:
    losses: list[float] = []
    config = small(name, "optimizer.epochs=5", "recipe.eps=0.02")

    def report(progress: Progress) -> None:
        if progress.validation:
            losses.append(next(iter(progress.terms.values())))

    fit(config, digits[:1200], digits[1200:], tmp_path, report=report)
    assert losses[-1] < 0.8 * losses[0]
    loaded = checkpoint.load_defence(tmp_path / "last.pt")
    draw = loaded.defence.draw(597, torch.Generator().manual_seed(0))
    guesses = loaded.defence(digits.pixels[1200:].float() / 255, draw).argmax(1)
    assert (guesses == digits.targets[1200:]).float().mean() > 0.6
    assert loaded.labels == digits.labels
    assert loaded.provenance["epochs"] == 5


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "killed_at", [7, 13]
)  # the epochs have 10 steps; checkpoints lie at 4, 8, 10, 14, ...
def test_a_killed_and_resumed_run_equals_an_unbroken_one(
    name: str, killed_at: int, digits: Images, tmp_path: Path
) -> None:
    config = small(name, "optimizer.save_every=4", "loss.mask_ramp=[0.2, 0.6]", "recipe.eps=0.02")
    training, validation = digits[:640], digits[640:740]
    fit(config, training, validation, tmp_path / "unbroken")

    def kill(progress: Progress) -> None:
        if progress.step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        fit(config, training, validation, tmp_path / "broken", report=kill)
    fit(config, training, validation, tmp_path / "broken", resume=True)
    unbroken, resumed = weights(tmp_path / "unbroken" / "last.pt"), weights(tmp_path / "broken" / "last.pt")
    assert unbroken.keys() == resumed.keys()
    for key, value in unbroken.items():
        assert torch.equal(value, resumed[key]), key


def test_micro_batches_accumulate_to_the_same_update(digits: Images, tmp_path: Path) -> None:
    """With norms that take no batch statistics, and terms that are means over images."""
    ends = []
    for parts in (1, 2):
        config = _decomposable(f"optimizer.micro_batches={parts}")
        with _frozen_norms():
            fit(config, digits[:192], digits[192:200], tmp_path / str(parts))
        ends.append(weights(tmp_path / str(parts) / "last.pt"))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=0, atol=1e-5, msg=key)


def test_two_processes_equal_one(digits: Images, tmp_path: Path) -> None:
    """Three steps; what batch norms do under data parallelism is in the README."""
    with _frozen_norms():
        fit(_decomposable(), digits[:192], digits[192:200], tmp_path / "one")
    program = (
        "from pathlib import Path; from tests.trainer import test_fit; "
        f"test_fit.run_as_worker(Path({str(tmp_path / 'two')!r}))"
    )
    script = tmp_path / "worker.py"
    script.write_text(program)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = weights(tmp_path / "one" / "last.pt"), weights(tmp_path / "two" / "last.pt")
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=0, atol=1e-5, msg=key)


def run_as_worker(out: Path) -> None:
    """What each of the two processes runs."""
    digits = read_digits()
    with _frozen_norms():
        fit(_decomposable(), digits[:192], digits[192:200], out)


def test_a_collapse_rolls_back_and_goes_on_with_two_steps(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = iter([0.5, 0.1, 0.5, 0.5])

    def validate(run: Run, images: Images) -> dict[str, float]:
        return {"purified": 0.5, "raw": 0.5, "robust": 0.5, "robust_now": next(probes)}

    monkeypatch.setattr(Run, "validate", validate)
    seen: list[tuple[int, int]] = []
    config = small("ren-cifar10-edge-at", "optimizer.epochs=3")
    fit(
        config,
        digits[:128],
        digits[128:160],
        tmp_path,
        report=lambda progress: seen.append((progress.step, progress.epoch)) if progress.validation else None,
    )
    assert [step for step, _ in seen] == [2, 2, 4, 6]  # the second epoch was done twice
    assert checkpoint.load(tmp_path / "last.pt")["position"]["attack_steps"] == 2


def test_a_folder_with_a_run_is_not_overwritten(digits: Images, tmp_path: Path) -> None:
    config = small("ren-cifar10-edge-clean", "optimizer.epochs=1")
    fit(config, digits[:64], digits[64:96], tmp_path)
    with pytest.raises(UsageError, match="--resume"):
        fit(config, digits[:64], digits[64:96], tmp_path)
    with pytest.raises(UsageError, match="another config"):
        fit(small("ren-cifar10-edge-clean", "seed=1"), digits[:64], digits[64:96], tmp_path, resume=True)


def test_a_config_that_does_not_fit_the_data_is_named(digits: Images, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.n_classes: expected 10"):
        fit(small("ren-cifar10-edge-clean", "model.n_classes=7"), digits[:64], digits[64:96], tmp_path)
    with pytest.raises(UsageError, match=r"optimizer\.batch_size: expected at most 32"):
        fit(small("ren-cifar10-edge-clean"), digits[:32], digits[64:96], tmp_path)


def test_damaged_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "absent.pt")
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(checkpoint.CheckpointError, match="not readable"):
        checkpoint.load(tmp_path / "noise.pt")
    torch.save({"weights": torch.ones(2)}, tmp_path / "foreign.pt")
    with pytest.raises(checkpoint.CheckpointError, match="format 1"):
        checkpoint.load(tmp_path / "foreign.pt")


def _decomposable(*overrides: str) -> Any:
    """Three steps of a loss that is a mean over images."""
    return small(
        "ren-cifar10-edge-at", "optimizer.epochs=1", "loss.diversity=0", "loss.code_stability=0", *overrides
    )


class _frozen_norms:
    """Batch norms that keep their running statistics, also in training."""

    def __enter__(self) -> None:
        self.train = torch.nn.BatchNorm2d.train
        torch.nn.BatchNorm2d.train = lambda norm, mode=True: self.train(norm, False)  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        torch.nn.BatchNorm2d.train = self.train  # type: ignore[method-assign]
