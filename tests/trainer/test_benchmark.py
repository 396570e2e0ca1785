"""``edge-train benchmark``: what it times, what its figures are made of, and what its gate says."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console

from sdk.errors import EdgePurifyError, GateError, UsageError
from tests.trainer.conftest import CONFIGS, small
from trainer import benchmark
from trainer.benchmark import STEPS_PER_ROUND, Report, Variant, variants
from trainer.cli import main
from trainer.config import Config
from trainer.data import Images
from trainer.loop.fabric import open_fabric
from trainer.loop.run import Run
from trainer.loop.tensorboard import Board

REPORT = Report(
    config="tiny", torch="2", device="cpu", processes=1, threads=1, batch_size=8, precision="32-true",
    channels_last=True, steps=8, images_per_s=95.0, bare_images_per_s=100.0, ratio=0.95,
)  # fmt: skip


class Clockwork:
    """Stands for ``time``: every step that is done takes the seconds that it says."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    clock = Clockwork()
    monkeypatch.setattr(benchmark, "time", clock)
    return clock


def state_of(config: Config, digits: Images, out: Path) -> Run:
    return Run(config, open_fabric("32-true"), digits[:640], out)


def test_the_sides_take_turns_and_the_time_is_kept(clockwork: Clockwork) -> None:
    done: list[str] = []

    def side(name: str, seconds: float) -> benchmark.Side:
        def step() -> None:
            done.append(name)
            clockwork.now += seconds

        return step

    shown: list[tuple[int, int | None]] = []
    times = benchmark.interleave(
        {"slow": side("slow", 2.0), "fast": side("fast", 1.0)},
        30,
        open_fabric("32-true"),
        on_progress=lambda what, seconds, total: shown.append((seconds, total)),
    )
    assert done[::STEPS_PER_ROUND] == ["slow", "fast", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert times == {"slow": [8.0] * 3, "fast": [4.0] * 3}  # the first round is not counted
    assert shown == [(12, 30), (24, 30), (30, 30)]
    assert benchmark.images_per_s(times["slow"], 10) == 5.0
    assert benchmark.rate_ratio(times["slow"], times["fast"]) == 0.5


def test_a_run_s_end_ends_the_benchmark(clockwork: Clockwork) -> None:
    def steps(count: int) -> Iterator[None]:
        for _ in range(count):
            clockwork.now += 1
            yield

    def rounds(count: int) -> int:
        left = steps(count)
        sides = {"loop": lambda: next(left), "bare": lambda: None}
        return len(benchmark.interleave(sides, 1e9, open_fabric("32-true"))["loop"])

    assert rounds(2 * STEPS_PER_ROUND) == 1
    assert rounds(4 * STEPS_PER_ROUND + 1) == 3
    with pytest.raises(
        UsageError, match=r"ends within 8 steps, too few to be timed; make optimizer\.epochs larger"
    ):
        rounds(2 * STEPS_PER_ROUND - 1)


@pytest.mark.parametrize("name", ["ren-cifar10-edge-clean", "ren-cifar10-edge-at", "plain-cifar10-edge-at"])
def test_the_timed_loop_is_training_s(name: str, digits: Images, tmp_path: Path) -> None:
    """Step by step the same weights as training makes, saves among them."""
    config = small(name, "optimizer.save_every=4")
    timed, trained = (
        state_of(config, digits, tmp_path / "timed"),
        state_of(config, digits, tmp_path / "trained"),
    )
    for state in (timed, trained):
        state.out.mkdir()
    with Board(tmp_path / "board") as board:
        steps = benchmark.loop(timed, board)
        for _ in range(6):
            next(steps)
    batches = trained.rest_of_epoch()
    for _ in range(6):
        trained.train_step(*next(batches))
    assert timed.step == trained.step == 6
    for key, value in trained.averaged.state_dict().items():
        assert torch.equal(value, timed.averaged.state_dict()[key]), key
    assert (tmp_path / "timed" / "last.pt").exists()


def test_a_bare_step_is_the_objective_s_and_moves_no_weight(digits: Images, tmp_path: Path) -> None:
    state = state_of(small("ren-cifar10-edge-at", "optimizer.micro_batches=2"), digits, tmp_path)
    state.defence.train()
    before = {name: value.clone() for name, value in state.defence.named_parameters()}
    asked: list[tuple[int, tuple[int, ...]]] = []
    backward: list[float] = []
    state.objective.register_forward_pre_hook(
        lambda module, given, options: asked.append((options["step"], tuple(given[0].shape))),
        with_kwargs=True,
    )

    def watch(module: torch.nn.Module, given: object, result: tuple[torch.Tensor, object]) -> None:
        result[0].register_hook(lambda gradient: backward.append(float(gradient)))

    state.objective.register_forward_hook(watch)
    bare = benchmark.Bare(state)
    bare()
    bare()
    assert asked == [(0, (32, 3, 16, 16))] * 2 + [(1, (32, 3, 16, 16))] * 2
    assert backward == [0.5] * 4
    assert all(torch.equal(value, before[name]) for name, value in state.defence.named_parameters())
    assert all(value.grad is None for value in state.defence.parameters())


def test_a_report_says_what_was_run(digits: Images) -> None:
    config = small("plain-cifar10-edge-at")
    report = benchmark.run(config, digits[:640], seconds=0)
    assert (report.config, report.batch_size, report.processes, report.precision) == (
        "plain-cifar10-edge-at", 64, 1, "32-true",
    )  # fmt: skip
    assert report.steps == STEPS_PER_ROUND
    assert report.ratio == pytest.approx(report.images_per_s / report.bare_images_per_s)
    assert msgspec.json.decode(benchmark.as_json(report), type=Report) == report


def test_a_config_that_does_not_fit_the_data_is_named(digits: Images) -> None:
    with pytest.raises(UsageError, match=r"optimizer\.batch_size: expected at most 32"):
        benchmark.run(small("plain-cifar10-edge-at"), digits[:32], seconds=0)


def test_synthetic_images_are_as_many_and_as_large_as_the_data_set_s() -> None:
    images = benchmark.synthetic(small("ren-cifar10-edge-clean", "data.validation=2000"))
    assert images.pixels.shape == (48_000, 3, 16, 16)
    assert images.pixels.dtype == torch.uint8
    assert set(images.targets.tolist()) == set(range(10))
    pairs = benchmark.synthetic(small("maep-cifar10-edge", "data.validation=49000"))
    assert pairs.pixels.shape == (1000, 6, 16, 16)
    with pytest.raises(UsageError, match="--data: missing; 'imagenet' is read from image folders"):
        benchmark.synthetic(small("ren-cifar10-edge-clean", "data.name=imagenet"))


@pytest.mark.parametrize(("ratio", "passes"), [(0.95, True), (0.9, True), (0.899, False)])
def test_the_gate_is_at_nine_tenths(ratio: float, passes: bool) -> None:
    report = msgspec.structs.replace(REPORT, ratio=ratio)
    if passes:
        benchmark.gate(report)
        return
    with pytest.raises(
        GateError, match=r"tiny: expected the loop at 0\.9 of the bare rate or above, got 0\.899"
    ):
        benchmark.gate(report)


def test_the_table_has_every_figure() -> None:
    found = (Variant("float32, contiguous, eager", 47.5, 0.5), Variant("compiled", reason="no compiler"))
    written = io.StringIO()
    Console(width=100, file=written).print(benchmark.render(msgspec.structs.replace(REPORT, variants=found)))
    text = written.getvalue()
    for words in ("tiny, batches of 8, 32-true, channels-last", "95", "0.950", "float32, contiguous", "0.50",
                  "no compiler", "bound is 0.9"):  # fmt: skip
        assert words in text


def test_the_ways_to_run_differ_in_what_they_say(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "compiler_complaint", lambda: "no working C++ compiler found")
    found = variants.ways(small("plain-cifar10-edge-at"), digits[:640], seconds=0)
    assert [variant.name for variant in found] == [
        "float32, contiguous, eager",
        "float32, channels-last, eager",
        "bfloat16, contiguous, eager",
        "bfloat16, channels-last, eager",
        "compiled",
    ]
    assert found[1].ratio == 1.0  # the config's own way
    assert all(variant.images_per_s > 0 for variant in found[:4])
    assert found[4] == Variant("compiled", reason="no working C++ compiler found")


def test_a_compiler_that_fails_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        raise RuntimeError("No working C++ compiler found\nset CXX")

    monkeypatch.setattr(torch, "compile", broken)
    assert variants.compiler_complaint() == "No working C++ compiler found"
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert variants.compiler_complaint() is None


def test_what_is_compiled_keeps_its_weights_and_answers(digits: Images, tmp_path: Path) -> None:
    """With a compiler that takes the graph as it is, so that none is needed."""
    state = state_of(small("ren-cifar10-edge-clean"), digits, tmp_path)
    names, graphs = set(state.defence.state_dict()), []
    images = digits.pixels[:8].float() / 255
    draw = state.defence.draw(8, torch.Generator().manual_seed(0))
    state.defence.eval()
    expected = state.defence(images, draw)

    def compiler(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    variants.compile_parts(state.defence, backend=compiler)
    torch.testing.assert_close(state.defence(images, draw), expected)
    assert len(graphs) >= 3  # the purifier, the trunk, and a member
    assert set(state.defence.state_dict()) == names


def test_processes_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, float]] = []

    def rate(arguments: object, n_processes: int, threads: int, seconds: float) -> float:
        asked.append((n_processes, threads, seconds))
        return 100.0 * n_processes + len(asked)

    monkeypatch.setattr(variants, "_rate", rate)
    monkeypatch.setattr(variants, "available_cpus", lambda: 4)
    one, two = variants.processes(["config.toml"], seconds=20)
    assert asked == [(1, 4, 5.0), (2, 2, 5.0)] * 2
    assert (one.name, one.images_per_s, one.ratio) == ("one process, threads 4", 102.0, 1.0)
    assert (two.name, two.images_per_s, two.ratio) == ("two processes, threads 2 each", 203.0, 203 / 102)
    monkeypatch.setattr(variants, "available_cpus", lambda: 1)
    (alone,) = variants.processes(["config.toml"], seconds=20)
    assert (alone.ratio, alone.reason) == (None, "one core is all there is")


def test_a_program_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stands_in = tmp_path / "python"
    stands_in.write_text("#!/bin/sh\necho 'W1 warning' >&2\necho 'edge-train: error: config x' >&2\nexit 1\n")
    stands_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stands_in))
    monkeypatch.setattr(variants, "available_cpus", lambda: 2)
    with pytest.raises(EdgePurifyError, match="benchmark in 1 processes: edge-train: error: config x"):
        variants.processes(["x"], seconds=1)


def test_the_command_prints_json_and_keeps_its_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [f"--set={key}" for key in (
        "model.image_size=16", "model.classifier.widths=[8,8,8]", "model.classifier.blocks=1",
        "optimizer.batch_size=16", "optimizer.precision=32-true", "data.validation=49000",
    )]  # fmt: skip
    config = CONFIGS / "plain-cifar10-edge-at.toml"
    threads = torch.get_num_threads()
    done = run("benchmark", config, "--seconds", "0", "--threads", threads, "--json", *overrides)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["threads"] == threads
    assert report["variants"] == []
    assert report["steps"] == STEPS_PER_ROUND

    monkeypatch.setattr(
        benchmark, "run", lambda *given, **options: msgspec.structs.replace(REPORT, ratio=0.5)
    )
    failed = run("benchmark", config, "--gate", *overrides)
    assert failed.exit_code == 3
    assert failed.stderr.startswith("edge-train: error: tiny: expected the loop at 0.9")
    assert len(failed.stderr.splitlines()) == 1


def test_the_command_s_mistakes_are_one_line(tmp_path: Path) -> None:
    config = CONFIGS / "plain-cifar10-edge-at.toml"
    for arguments, code, words in (
        (["absent.toml"], 2, "absent.toml"),
        ([CONFIGS / "maep-imagenet.toml"], 2, "--data: missing"),
        ([config, "--data", tmp_path], 1, "CIFAR-10"),
        ([config, "--set", "data.validation=50000"], 2, "optimizer.batch_size: expected at most 0"),
    ):
        failed = run("benchmark", *arguments)
        assert failed.exit_code == code, failed.output
        assert len(failed.output.splitlines()) == 1
        assert words in failed.output


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
