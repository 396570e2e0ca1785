"""The comparison with torch eager: the runtime's work, timed in a process of its own, held to a bound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdk.bundle import Bundle, default_bundle
from trainer.models.twin import read_twin

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "torch_eager.py"


@pytest.fixture(autouse=True)
def scripts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--frames", "50", "--size", "64x64", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_both_sides_take_turns() -> None:
    done = run("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["torch"] == str(torch.__version__)
    assert found["torch_threads"] >= 1
    for side in ("ours", "eager"):
        assert 0 < found[side]["p50_ms"] <= found[side]["p99_ms"]
    ratio = found["eager"]["p50_ms"] / found["ours"]["p50_ms"]
    assert found["check"]["measured"] == pytest.approx(ratio)
    assert (found["check"]["bound"], found["check"]["at_least"]) == (2.0, True)


@pytest.mark.parametrize(("bound", "code"), [(0.0, 0), (1e9, 3)])
def test_the_gate_holds_the_ratio(bound: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_eager
    from click.testing import CliRunner

    from sdk.benchmark.report import Quantiles

    check = torch_eager.at_least("torch eager / frame", 2.5, bound)
    times = Quantiles(1.0, 1.0, 1.0)
    found = torch_eager.Comparison("b", "2", 1, 64, 64, 50, times, times, check)
    monkeypatch.setattr(torch_eager, "compare", lambda *arguments: found)
    done = CliRunner().invoke(torch_eager.main, ["--gate"])
    assert done.exit_code == code
    assert (done.stderr != "") == (code == 3)


def test_a_bundle_without_a_twin_is_one_line(tiny_bundle: Path) -> None:
    done = run("--bundle", str(tiny_bundle))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"torch_eager: error: bundle {tiny_bundle}: it has no torch twin to compare with\n"


def test_it_gives_the_twins_answer_under_a_fresh_draw() -> None:
    from torch_eager import classify

    bundle = Bundle.open(default_bundle())
    defence = read_twin(bundle)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    index, score = classify(defence, image, generator)
    draw = defence.draw(1, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = defence(image, draw).softmax(-1)[0]
    assert index == int(expected.argmax())
    assert abs(score - float(expected.max())) < 1e-6
    scores = {classify(defence, image, generator)[1] for _ in range(5)}
    assert len(scores) > 1, "a draw is fresh for every frame"


def test_the_faster_thread_count_is_kept() -> None:
    from torch_eager import fastest_threads

    before = torch.get_num_threads()
    try:
        many = fastest_threads(lambda: 1.0 / torch.get_num_threads())
        one = fastest_threads(lambda: float(torch.get_num_threads()))
        assert (one, torch.get_num_threads()) == (1, 1)
        assert many >= one
    finally:
        torch.set_num_threads(before)
