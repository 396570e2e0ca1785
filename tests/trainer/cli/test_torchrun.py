"""Commands that several processes share: what comes out is what one process makes, to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.trainer.conftest import CONFIGS
from trainer import checkpoint
from trainer import config as configs
from trainer.data import CIFAR10_LABELS
from trainer.models import build

ROOT = Path(__file__).parents[3]


def command(n_processes: int, *arguments: object) -> list[str]:
    run = ["-m", "trainer.cli"]
    if n_processes > 1:
        run = ["-m", "torch.distributed.run", f"--nproc-per-node={n_processes}", "--standalone", *run]
    return [sys.executable, *run, *map(str, arguments)]


def start(n_processes: int, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(n_processes, *arguments),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(n_processes: int, *arguments: object) -> str:
    process = start(n_processes, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def workers(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def without_times(path: Path) -> object:
    """A report's content but for the seconds spent."""
    tree = msgspec.json.decode(path.read_bytes())
    stack = [tree]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            part.pop("seconds", None)
        stack += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return tree


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_an_evaluation_that_lost_a_process_goes_on_to_the_report_of_one_process(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    """Begun by two processes, of which one is killed; finished by three; and made anew by one."""

    def evaluate(work: str, report: str) -> list[object]:
        paths = ("--work", tmp_path / work, "--json", tmp_path / report)
        return ["evaluate", bundle, "--data", data, "--images", 4, "--draws", 2, "--threads", 1, *paths]

    first = start(2, *evaluate("shared", "lost.json"))
    while len(list((tmp_path / "shared").rglob("*.pt"))) < 3:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    os.kill(workers(first)[-1], signal.SIGKILL)
    output, _ = first.communicate()
    assert first.returncode != 0, output
    assert not (tmp_path / "lost.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.pt")}

    output = run(3, *evaluate("shared", "three.json"))
    assert output.count("images survive the strongest attack on each") == 1  # the first process speaks
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    run(1, *evaluate("alone", "one.json"))
    assert without_times(tmp_path / "three.json") == without_times(tmp_path / "one.json")
    names = [sorted(path.name for path in (tmp_path / work).rglob("*.pt")) for work in ("shared", "alone")]
    assert names[0] == names[1]  # the same batches, each once


def test_a_bank_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        records = np.random.default_rng(number).integers(0, 256, (150, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"data_batch_{number}.bin")
    config = configs.load(CONFIGS / "plain-cifar10-edge-at.toml", ("model.classifier.widths=[8,8,8]",))
    state = {"config": configs.to_dict(config), "averaged": build(config.model).state_dict()}
    checkpoint.save(
        tmp_path / "tiny.pt", {**state, "labels": CIFAR10_LABELS, "provenance": {"config": state["config"]}}
    )
    for n_processes in (2, 1):
        out, work = tmp_path / f"{n_processes}.npz", tmp_path / f"work-{n_processes}"
        options = ("--data", tmp_path, "--out", out, "--work", work, "--steps", 2)
        told = run(n_processes, "bank", tmp_path / "tiny.pt", *options)
        assert told.count("wrote") == 1
        assert list(work.iterdir()) == []  # nothing is left of the batches
    two, one = (np.load(tmp_path / f"{n_processes}.npz") for n_processes in (2, 1))
    assert set(two) == set(one)
    assert all(np.array_equal(two[name], one[name]) for name in one)
    assert np.abs(one["perturbations"]).max() == 8
