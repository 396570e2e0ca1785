"""``edge-train`` as a user types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.trainer.conftest import CONFIGS, SMALL_REN
from trainer import checkpoint
from trainer.cli import console, main
from trainer.loop import fit as fitting

CLEAN_BUNDLE = Path(__file__).parents[3] / "samples" / "bundles" / "ren-cifar10-edge-clean"
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


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_what_resume_goes_on_from(stop: signal.Signals, cifar: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    overrides = [f"--set={override}" for override in (*TINY, "optimizer.epochs=100000")]
    with (tmp_path / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.cli", "fit", CLEAN, "--data", cifar, "--out", out, *overrides],
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            wait_for(out / "last.pt", process)
            process.send_signal(stop)
            assert process.wait(timeout=120) == 130
        finally:
            process.kill()
        stderr.seek(0)
        said = stderr.read()
    step = checkpoint.load(out / "last.pt")["position"]["step"]
    assert said.splitlines()[-1] == (
        f"edge-train: stopped; with --resume the run goes on from {out / 'last.pt'}, step {step}"
    )
    assert "Traceback" not in said
    assert "Aborted" not in said
    assert {path.name for path in out.iterdir()} - {"tensorboard"} == {"best.pt", "last.pt"}


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until ``path`` is there; fails if ``process`` ends before, or doesn't make it in two minutes."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, f"no {path} in two minutes"
        time.sleep(0.05)


def test_a_stop_before_anything_was_saved_says_so(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", stopped)
    done = train(cifar, tmp_path / "run")
    assert done.exit_code == 130
    assert done.output.splitlines() == [
        f"edge-train: stopped; nothing was saved yet, so nothing of {tmp_path / 'run'} is left to go on from"
    ]
    monkeypatch.setenv("RANK", "1")  # torchrun's second process leaves the talking to the first
    done = train(cifar, tmp_path / "run")
    assert (done.exit_code, done.output) == (130, "")


def test_any_command_can_be_stopped(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: object, **options: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(checkpoint, "load_defence", stopped)
    done = run("bank", trained / "best.pt", "--data", "x", "--out", "y")
    assert (done.exit_code, done.output) == (130, "edge-train: stopped\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_bank_is_made_of_every_training_image(
    trained: Path, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)  # in a log, progress is lines
    out = tmp_path / "bank.npz"
    done = run("bank", trained / "best.pt", "--data", cifar, "--out", out, "--steps", 2, "--work", tmp_path)
    assert done.exit_code == 0, done.output
    assert "attacked: 100 of 100\n" in done.stderr
    perturbations = np.load(out)["perturbations"]
    assert perturbations.shape == (100, 3, 32, 32)
    assert np.abs(perturbations.astype(int)).max() == 8


def test_a_bank_is_made_on_a_bundle_s_classifiers(cifar: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank.npz"
    done = run("bank", CLEAN_BUNDLE, "--data", cifar, "--out", out, "--steps", 1, "--work", tmp_path)
    assert done.exit_code == 0, done.output
    assert np.abs(np.load(out)["perturbations"].astype(int)).max() == 8


def test_a_user_s_mistakes_are_one_line(cifar: Path, tmp_path: Path) -> None:
    assert_one_line(run("fit", tmp_path / "absent.toml", "--data", cifar), 2, "absent.toml")
    assert_one_line(train(cifar, tmp_path / "out", "--set", "optimizer.epoch=1"), 2, "epoch")
    assert_one_line(train(tmp_path, tmp_path / "out"), 1, "CIFAR-10")
    assert_one_line(run("evaluate", tmp_path / "absent", "--data", cifar), 2, "absent")
    assert_one_line(run("bank", tmp_path / "a.pt", "--data", cifar, "--out", tmp_path / "b.npz"), 1, "a.pt")


def test_a_bank_s_place_is_tried_before_the_work(cifar: Path, tmp_path: Path) -> None:
    out = tmp_path / "absent" / "b.npz"
    assert_one_line(
        run("bank", tmp_path / "a.pt", "--data", cifar, "--out", out), 1, f"{out}: can't be written"
    )
    assert not list(tmp_path.iterdir())


def test_of_several_processes_the_first_says_what_was_written(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "fit", lambda *given, **options: Path("best.pt"))
    assert train(cifar, tmp_path / "run").output == "wrote best.pt\n"
    monkeypatch.setenv("RANK", "1")
    assert train(cifar, tmp_path / "run").output == ""


def assert_one_line(result: Result, exit_code: int, words: str) -> None:
    lines = result.output.strip().splitlines()
    assert result.exit_code == exit_code, result.output
    assert len(lines) == 1, result.output
    assert lines[0].startswith("edge-train: error: ")
    assert words in lines[0]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "--help"], ["evaluate", "--help"], ["ablate", "-h"]]
)
def test_help_is_light(arguments: list[str]) -> None:
    program = (
        f"import sys\nfrom trainer.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n"
        "    print([m for m in ('torch', 'onnxruntime', 'numpy', 'cv2') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: edge-train ")
    assert result.stdout.splitlines()[-1] == "[]"
