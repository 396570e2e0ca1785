"""``edge-train`` as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.trainer.conftest import CONFIGS, SMALL_REN
from trainer import checkpoint
from trainer.cli import main

CLEAN = str(CONFIGS / "ren-cifar10-edge-clean.toml")
TINY = (
    "optimizer.epochs=1",
    "optimizer.batch_size=32",
    "optimizer.precision=32-true",
    "model.classifier.widths=[8,8,8]",
    "data.validation=20",
    *SMALL_REN,
)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in CIFAR-10's binary layout, of 100 random images."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = random.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")
    return root


@pytest.fixture(scope="module")
def trained(cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = train(cifar, out)
    assert done.exit_code == 0, done.output
    assert f"wrote {out / 'best.pt'}" in done.output
    assert "epoch 1/1" in done.output
    return out


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def train(data: Path, out: Path, *more: object) -> Result:
    overrides = [word for override in TINY for word in ("--set", override)]
    return run("fit", CLEAN, "--data", data, "--out", out, *overrides, *more)


def test_fit_leaves_a_checkpoint_that_loads(trained: Path) -> None:
    loaded = checkpoint.load_defence(trained / "best.pt")
    assert loaded.config["optimizer"]["batch_size"] == 32
    assert loaded.provenance["training_images"] == 80


def test_fit_goes_on_only_when_asked_to(trained: Path, cifar: Path) -> None:
    again = train(cifar, trained)
    assert_one_line(again, 2, "--resume")
    resumed = train(cifar, trained, "--resume")
    assert resumed.exit_code == 0, resumed.output


def test_a_bank_is_made_of_every_training_image(trained: Path, cifar: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank.npz"
    done = run("bank", trained / "best.pt", "--data", cifar, "--out", out, "--steps", 2)
    assert done.exit_code == 0, done.output
    perturbations = np.load(out)["perturbations"]
    assert perturbations.shape == (100, 3, 32, 32)
    assert np.abs(perturbations.astype(int)).max() == 8


def test_a_user_s_mistakes_are_one_line(cifar: Path, tmp_path: Path) -> None:
    assert_one_line(run("fit", tmp_path / "absent.toml", "--data", cifar), 2, "absent.toml")
    assert_one_line(train(cifar, tmp_path / "out", "--set", "optimizer.epoch=1"), 2, "epoch")
    assert_one_line(train(tmp_path, tmp_path / "out"), 1, "CIFAR-10")
    assert_one_line(run("evaluate", tmp_path / "absent", "--data", cifar), 2, "absent")
    assert_one_line(run("bank", tmp_path / "a.pt", "--data", cifar, "--out", tmp_path / "b.npz"), 1, "a.pt")


def assert_one_line(result: Result, exit_code: int, words: str) -> None:
    lines = result.output.strip().splitlines()
    assert result.exit_code == exit_code, result.output
    assert len(lines) == 1, result.output
    assert lines[0].startswith("edge-train: error: ")
    assert words in lines[0]
