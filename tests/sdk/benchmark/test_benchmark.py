"""The benchmark: a complete report, readable by a person and a machine, and a gate that can fail."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from sdk import benchmark
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.benchmark import endurance
from sdk.benchmark.bounds import GROWTH_BOUND, checks
from sdk.benchmark.children import Child
from sdk.benchmark.report import (
    Bank,
    Check,
    InPrecision,
    Memory,
    Preprocess,
    Quantiles,
    Report,
    Soak,
    Stages,
    Start,
    Throughput,
    Votes,
)
from sdk.benchmark.subject import Subject, Synthetic, natural_frame, parse_size, with_bank_of
from sdk.benchmark.turns import Bare, integer_crop, take_turns
from sdk.bundle import Bundle, Engine
from sdk.choices import GraphKind
from sdk.errors import BackendError, GateError, UsageError
from sdk.host.children import python_code, python_module
from sdk.result import Result
from sdk.sources import Frame

SIZE = (160, 120)


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> Report:
    """Every section of the tiny bundle, briefly."""
    return benchmark.run(tiny_bundle, frames=12, votes=2, frame_size=SIZE, soak=200)


def test_it_says_what_was_measured_on_what(report: Report) -> None:
    assert (report.bundle, report.backend, report.precision) == ("tiny", "onnxruntime", "fp32")
    assert (report.frame_width, report.frame_height, report.image_width, report.frames) == (160, 120, 16, 12)


def test_every_stage_of_both_sides_and_every_engine_is_measured(report: Report) -> None:
    assert report.stages is not None
    stages = report.stages
    assert list(stages.ours) == ["preprocess", "draw", "purify", "classify", "total"]
    assert list(stages.bare) == ["resize", "purify", "classify", "total"]
    known = {"purifier-00", "purifier-01", "purifier-02", "classifier-00", "classifier-01"}
    assert {"classifier-00", "classifier-01"} <= set(stages.engines) <= known
    for times in (*stages.ours.values(), *stages.bare.values(), *stages.engines.values()):
        assert 0 < times.p50_ms <= times.p90_ms <= times.p99_ms
    assert stages.votes == 2
    assert stages.draw_us > 0
    assert stages.frames_per_s > 0


def test_votes_and_banks_of_several_sizes_are_measured(report: Report) -> None:
    assert [voted.votes for voted in report.votes] == [1, 3, 5]
    assert [bank.purifiers for bank in report.banks] == [1, 4, 8]
    assert all(voted.ours.p50_ms > 0 and voted.bare.p50_ms > 0 for voted in report.votes)


def test_every_precision_of_the_bundle_is_measured(report: Report) -> None:
    assert [(found.precision, found.graphs) for found in report.precisions] == [("fp32", "gpu")]
    assert all(0 < found.engines.p50_ms <= found.frame.p50_ms for found in report.precisions)


def test_each_precision_is_measured_on_the_graphs_that_a_cpu_runs(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    file = {engine.id: engine.onnx["fp32"] for engine in bundle.manifest.engines}

    def lowered(engine: Engine, *, cpu: bool) -> Engine:
        both = {"fp32": file[engine.id], "int8": file[engine.id]}
        return msgspec.structs.replace(engine, onnx=both, cpu={"int8": file[engine.id]} if cpu else {})

    manifest = msgspec.structs.replace(
        bundle.manifest,
        purifiers=tuple(lowered(engine, cpu=False) for engine in bundle.manifest.purifiers),
        classifiers=tuple(lowered(engine, cpu=True) for engine in bundle.manifest.classifiers),
    )
    several = Bundle(bundle.folder, manifest, bundle.labels, bundle.digest)
    found = benchmark.run(several, frames=20, frame_size=SIZE, only=["precisions"], precision="fp32")
    assert [(each.precision, each.graphs) for each in found.precisions] == [("fp32", "gpu"), ("int8", "cpu")]


def test_int8_is_held_to_its_share_only_where_it_can_pay() -> None:
    def checked(graphs: GraphKind, *, exact: bool) -> list[str]:
        fp32 = InPrecision("fp32", "gpu", times(2), times(1))
        int8 = InPrecision("int8", graphs, times(2), times(0.7))
        return [check.name for check in held(precisions=(fp32, int8), exact_int8=exact)]

    assert checked("cpu", exact=True) == ["engines in int8 / fp32"]
    assert checked("gpu", exact=True) == checked("cpu", exact=False) == []


def test_the_memory_of_fresh_processes_is_measured(report: Report, tiny_bundle: Path) -> None:
    assert report.memory is not None
    assert 10e6 < report.memory.small_bytes < 1e9
    assert 10e6 < report.memory.large_bytes < 1e9
    sizes = [(tiny_bundle / f"onnx/purifier-{index % 3:02d}.onnx").stat().st_size for index in range(1, 8)]
    assert (report.memory.added_sessions, report.memory.added_files_bytes) == (7, sum(sizes))


def test_the_loop_is_measured_with_and_without_saving(report: Report) -> None:
    plain, saving = report.loop
    assert (plain.saving, list(plain.stages_ms)) == (False, ["read", "purify"])
    assert (saving.saving, list(saving.stages_ms)) == (True, ["read", "purify", "write"])
    for loop in report.loop:
        slowest_s = max(loop.stages_ms.values()) / 1e3
        expected = min(1 / slowest_s, loop.cpus / (loop.cpu_ms / 1e3))
        assert loop.possible_frames_per_s == pytest.approx(expected)
        assert loop.frames_per_s > 0


def test_the_first_result_is_waited_for_in_processes_of_their_own(report: Report) -> None:
    assert report.start is not None
    assert len(report.start.seconds) == 5
    assert all(0.05 < seconds < 60 for seconds in report.start.seconds)


def test_drift_is_what_ours_grows_beyond_bare_and_one_busy_tenth_does_not_bend_it() -> None:
    bare = (1.0, 1.3, 0.9, 1.1, 1.2, 1.0, 1.4, 0.8, 1.0, 1.1)
    grown = tuple(2 * each * 1.02**place for place, each in enumerate(bare))
    assert Soak(10, 0, grown, bare).drift == pytest.approx(1.02**9)
    assert Soak(10, 0, (*grown[:8], 9.0, grown[9]), bare).drift == pytest.approx(1.02**9)


def test_the_soak_times_every_tenth(report: Report) -> None:
    assert report.soak is not None
    assert report.soak.frames == 200
    assert len(report.soak.ours_ms) == len(report.soak.bare_ms) == 10
    assert min(*report.soak.ours_ms, *report.soak.bare_ms) > 0


def test_one_section_alone(tiny_bundle: Path) -> None:
    steps: list[str] = []
    found = benchmark.run(tiny_bundle, frames=3, frame_size=SIZE, only=["preprocess"], on_step=steps.append)
    assert steps == ["preprocess"]
    assert found.preprocess is not None
    assert [check.name for check in found.checks] == ["preprocess / plain INTER_AREA"]


def test_as_many_steps_are_said_as_were_foretold(tiny_bundle: Path) -> None:
    said: list[str] = []
    benchmark.run(tiny_bundle, frames=3, frame_size=SIZE, only=["preprocess"], soak=200, on_step=said.append)
    assert len(said) == benchmark.steps(["preprocess"], soak=200)


def test_json_holds_the_whole_report(report: Report) -> None:
    assert msgspec.json.decode(benchmark.as_json(report), type=Report) == report


def test_the_tables_show_every_section_and_check(report: Report) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(benchmark.render(report))
    text = console.export_text()
    assert report.stages is not None
    assert f"{report.stages.ours['total'].p99_ms:.3f}" in text
    for name in (
        "frames/s",
        "preprocess",
        "votes 5",
        "K=8",
        "fp32",
        "memory",
        "loop, saving",
        "first result",
        "soak",
    ):
        assert f"\n{name}" in text
    assert all(check.name in text for check in report.checks)
    assert sum(" failed " in line for line in text.splitlines()) == sum(
        not check.passed for check in report.checks
    )


# --- the gate


def times(p50_ms: float, p99_ms: float | None = None) -> Quantiles:
    return Quantiles(p50_ms, p50_ms, p50_ms if p99_ms is None else p99_ms)


def held(**sections: object) -> list[Check]:
    facts = {"bundle": "b", "backend": "o", "version": "1", "precision": "fp32", "threads": 1, "cpus": 2}
    sizes = {"image_width": 1, "image_height": 1, "frame_width": 1, "frame_height": 1, "frames": 1}
    return list(checks(Report(**facts, **sizes, **sections)))  # type: ignore[arg-type]


def stages(ours: Quantiles, bare: Quantiles, draw_us: float = 10.0) -> Stages:
    return Stages(1, {"total": ours}, {"total": bare}, {}, draw_us, 1.0)


def in_precisions(int8_ms: float) -> tuple[InPrecision, ...]:
    fp32 = InPrecision("fp32", "gpu", times(2), times(1))
    return fp32, InPrecision("int8", "cpu", times(2), times(int8_ms))


MEMORY = Memory(1, 100 * 2**20, 8, 128 * 2**20 + 2 * 1000, added_sessions=7, added_files_bytes=1000)
LOOP = Throughput(False, 90.0, 100.0, {}, 1.0, 2)
SOAK = Soak(1000, 5 * 2**20, ours_ms=(2.0, 2.1, 4.2), bare_ms=(2.0, 2.05, 4.0))


@pytest.mark.parametrize(
    ("good", "bad", "name"),
    [
        (
            {"stages": stages(times(1.08), times(1))},
            {"stages": stages(times(1.09), times(1))},
            "frame / bare",
        ),
        (
            {"stages": stages(times(1, 2.5), times(1, 2))},
            {"stages": stages(times(1, 2.6), times(1, 2))},
            "p99/p50 of a frame / of the bare",
        ),
        (
            {"stages": stages(times(1), times(1), 50.0)},
            {"stages": stages(times(1), times(1), 50.1)},
            "draw",
        ),
        (
            {"preprocess": Preprocess(times(0.35), times(1))},
            {"preprocess": Preprocess(times(0.36), times(1))},
            "preprocess / plain INTER_AREA",
        ),
        (
            {"votes": (Votes(3, times(1.08), times(1)),)},
            {"votes": (Votes(3, times(1.09), times(1)),)},
            "votes 3 / bare",
        ),
        (
            {"banks": (Bank(1, times(1)), Bank(4, times(9)), Bank(8, times(1.05)))},
            {"banks": (Bank(1, times(1)), Bank(4, times(1)), Bank(8, times(1.06)))},
            "K=8 / K=1",
        ),
        (
            {"precisions": in_precisions(0.6), "exact_int8": True},
            {"precisions": in_precisions(0.61), "exact_int8": True},
            "engines in int8 / fp32",
        ),
        (
            {"memory": MEMORY},
            {"memory": msgspec.structs.replace(MEMORY, large_bytes=MEMORY.large_bytes + 1)},
            "memory K=8 - K=1",
        ),
        ({"loop": (LOOP,)}, {"loop": (msgspec.structs.replace(LOOP, frames_per_s=89),)}, "loop / possible"),
        ({"start": Start((1.0, 1.5, 9.0))}, {"start": Start((1.6, 1.6, 0.1))}, "first result"),
        (
            {"soak": SOAK},
            {"soak": msgspec.structs.replace(SOAK, growth_bytes=SOAK.growth_bytes + 1)},
            "soak: memory growth",
        ),
        (
            {"soak": SOAK},
            {"soak": msgspec.structs.replace(SOAK, ours_ms=(2.0, 2.11, 4.3))},
            "soak: drift of p50",
        ),
    ],
)
def test_each_bound_is_held(good: dict[str, object], bad: dict[str, object], name: str) -> None:
    assert all(check.passed for check in held(**good))
    assert [check.name for check in held(**bad) if not check.passed] == [name]


def test_the_gate_names_every_failure_in_one_line(report: Report) -> None:
    failed = held(
        preprocess=Preprocess(times(1), times(1)), loop=(msgspec.structs.replace(LOOP, frames_per_s=5),)
    )
    with pytest.raises(GateError) as caught:
        benchmark.gate(msgspec.structs.replace(report, checks=tuple(failed)))
    assert str(caught.value) == (
        "preprocess / plain INTER_AREA: expected at most 0.35, got 1; "
        "loop / possible: expected at least 0.9, got 0.05; measure again on a machine with nothing else to do"
    )
    assert caught.value.exit_code == 3


def test_the_gate_lets_a_good_report_pass(report: Report) -> None:
    benchmark.gate(msgspec.structs.replace(report, checks=tuple(held(memory=MEMORY))))


# --- its parts


def test_sides_take_turns_and_the_first_alternates() -> None:
    order: list[str] = []

    def side(name: str) -> dict[str, float]:
        order.append(name)
        return {"total": float(len(order))}

    found = take_turns({"a": lambda: side("a"), "b": lambda: side("b")}, 3, calls=2)
    assert "".join(order[-12:]) == "aabb" + "bbaa" + "aabb"
    assert [len(found[name]["total"]) for name in "ab"] == [6, 6]


def test_the_bare_side_runs_as_many_engines_as_there_are_votes(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    subject = Subject(bundle, OnnxRuntimeBackend(bundle), "fp32", natural_frame(*SIZE), votes=1, frames=1)
    found = Bare(subject, votes=40)()
    assert set(found) == {"resize", "purify", "classify", "total"} | {
        engine.id for engine in bundle.manifest.engines
    }
    assert found["resize"] + found["purify"] + found["classify"] <= found["total"]


@pytest.mark.parametrize(
    ("frame_size", "target", "expected"),
    [
        ((1280, 720), (32, 32), (704, 704)),
        ((1280, 720), (224, 224), (672, 672)),
        ((50, 40), (16, 8), (48, 24)),
    ],
)
def test_the_bare_resize_is_by_the_largest_integer(
    frame_size: tuple[int, int], target: tuple[int, int], expected: tuple[int, int]
) -> None:
    frame = natural_frame(*frame_size)
    crop = integer_crop(frame, *target)
    assert (crop.shape[1], crop.shape[0]) == expected
    left, top = ((frame_size[i] - expected[i]) // 2 for i in (0, 1))
    assert np.array_equal(crop, frame[top : top + expected[1], left : left + expected[0]])


@pytest.mark.parametrize("purifiers", [1, 3, 8])
def test_a_bank_of_any_size_is_made_of_the_bundles_purifiers(tiny_bundle: Path, purifiers: int) -> None:
    bundle = with_bank_of(Bundle.open(tiny_bundle), purifiers)
    files = [engine.onnx["fp32"].file for engine in bundle.manifest.purifiers]
    assert files == [f"onnx/purifier-{index % 3:02d}.onnx" for index in range(purifiers)]
    assert len(OnnxRuntimeBackend(bundle).bare_sessions()[0]) == purifiers


def test_a_process_that_fails_is_named_with_its_last_words() -> None:
    program = "import sys; print('ready', flush=True); sys.stdin.readline(); sys.exit('first\\nout of luck')"
    with Child("program", python_code(program)) as child:
        assert child.hear() == "ready"
        with pytest.raises(BackendError, match="ended with 1: out of luck"):
            child.ask()


def test_a_process_of_its_own_decides_on_threads_as_a_purifier_does(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    lines = []
    for threads in (1, 2):
        backend = OnnxRuntimeBackend(bundle, threads=threads)
        subject = Subject(bundle, backend, "fp32", natural_frame(*SIZE), votes=1, frames=1)
        lines.append(endurance._command("soak", subject, purifiers=3, frames=200))
    assert lines[0] == lines[1]


def test_a_damaged_bundle_in_a_process_of_its_own_is_one_line(bundle_copy: Path) -> None:
    (bundle_copy / "labels.txt").write_text("other\n")
    numbers = ("64", "48", "1", "1")
    command = python_module("sdk.benchmark", "resident", str(bundle_copy), "fp32", *numbers)
    with (
        Child("resident", command) as child,
        pytest.raises(BackendError, match=r"ended with 1: bundle .* is damaged"),
    ):
        child.hear()


def test_the_synthetic_frame_is_smooth_as_a_photograph_and_full_of_contrast() -> None:
    frame = natural_frame(320, 200)
    assert (frame.shape, frame.dtype) == ((200, 320, 3), np.uint8)
    grey = frame.mean(axis=2)
    assert grey.std() > 20
    assert np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1] > 0.85


def test_the_synthetic_source_gives_other_frames_of_one_size() -> None:
    frames = list(Synthetic(64, 48, 5))
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert len({frame.image.tobytes() for frame in frames}) == 5


@pytest.mark.parametrize("text", ["", "1280", "1280x", "0x720", "1280x720x3", "-1x5", "9000x10", "1e3x5"])
def test_a_wrong_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="expected WxH in pixels, up to 8192, like 1280x720"):
        parse_size(text)


def test_a_size_is_read() -> None:
    assert parse_size("1280x720") == (1280, 720)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"frames": 0}, "frames: expected >= 1, got 0"),
        ({"only": ["speed"]}, "--only speed: expected one of stages, preprocess"),
        ({"soak": 199}, "--soak: expected at least 200 frames, got 199"),
        ({"frame_size": (64, 15)}, "--size 64x15: expected at least the engines' image, 16x16"),
        ({"votes": 0, "only": ["stages"]}, "votes: expected an integer >= 1, got 0"),
    ],
)
def test_an_impossible_argument_is_a_usage_error(
    tiny_bundle: Path, how: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark.run(tiny_bundle, **how)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_sound_runtime_stays_within_the_bound_of_a_soak(tiny_bundle: Path) -> None:
    found = benchmark.run(tiny_bundle, frames=1, frame_size=SIZE, only=["preprocess"], soak=2000)
    assert found.soak is not None
    assert found.soak.growth_bytes <= GROWTH_BOUND


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_leak_is_found_by_a_soak(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaked: list[bytearray] = []

    class Leaking(endurance._Tenth):
        def add(self, bare: Bare, frame: Frame, result: Result) -> None:
            leaked.append(bytearray(os.urandom(1 << 19)))
            super().add(bare, frame, result)

    monkeypatch.setattr(endurance, "_Tenth", Leaking)
    bundle = Bundle.open(tiny_bundle)
    *_, found = endurance.endure(bundle, OnnxRuntimeBackend(bundle), SIZE, 200)
    assert isinstance(found, Soak)
    assert found.growth_bytes > GROWTH_BOUND
    assert next(check.name for check in held(soak=found) if not check.passed) == "soak: memory growth"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_system_that_does_not_tell_its_memory_says_so(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdk.benchmark.endurance._STATM", tmp_path / "nothing")
    found = benchmark.run(tiny_bundle, frames=1, frame_size=SIZE, only=["memory"], soak=200)
    assert found.not_measured.keys() == {"memory", "soak"}
