"""Bounds on the runtime's latency, memory and start, and the gate that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from sdk.benchmark.report import Check, Report, Stages
from sdk.errors import GateError

OVERHEAD_BOUND = 1.08  # a frame's p50 over the bare engines' and one integer-factor resize's
TAIL_BOUND = 1.25  # p99/p50 of a frame over that of the bare
DRAW_BOUND_US = 50.0
PREPROCESS_BOUND = 0.35  # of a plain INTER_AREA of the frame's full centre
BANK_BOUND = 1.05  # p50 with the largest bank over p50 with one purifier
#: Engines of a frame in INT8 over those in FP32, if the CPU has VNNI and the bundle INT8 graphs for CPUs.
INT8_BOUND = 0.6
BYTES_PER_FILE_BYTE, BYTES_PER_SESSION = 2, 4 * 2**20  # that a purifier more may take
LOOP_BOUND = 0.9  # of the frames a second that the stages allow
START_BOUND_S = 1.5
GROWTH_BOUND = 5 * 2**20  # bytes, through a soak
UNATTENDED_GROWTH_BOUND = 8 * 2**20  # bytes: encoders and viewers come and go, and leave holes
LEAK_BOUND = 2  # open files, threads
DRIFT_BOUND = 1.05  # of p50 through a soak, beyond that of the bare engines
_HINT = "measure again on a machine with nothing else to do"


def checks(report: Report) -> Iterator[Check]:
    """One Check per measured figure that has a bound."""
    if report.stages is not None:
        yield from _of_a_frame(report.stages)
    if (preprocess := report.preprocess) is not None:
        share = preprocess.ours.p50_ms / preprocess.full_centre.p50_ms
        yield at_most("preprocess / plain INTER_AREA", share, PREPROCESS_BOUND)
    for voted in report.votes:
        yield at_most(f"votes {voted.votes} / bare", voted.ours.p50_ms / voted.bare.p50_ms, OVERHEAD_BOUND)
    if report.banks:
        small, large = report.banks[0], report.banks[-1]
        name = f"K={large.purifiers} / K={small.purifiers}"
        yield at_most(name, large.ours.p50_ms / small.ours.p50_ms, BANK_BOUND)
    by_name = {found.precision: found for found in report.precisions}
    if report.exact_int8 and (int8 := by_name.get("int8")) is not None and int8.graphs == "cpu":
        share = int8.engines.p50_ms / by_name["fp32"].engines.p50_ms
        yield at_most("engines in int8 / fp32", share, INT8_BOUND)
    if (memory := report.memory) is not None:
        allowed = BYTES_PER_FILE_BYTE * memory.added_files_bytes + BYTES_PER_SESSION * memory.added_sessions
        name = f"memory K={memory.large_purifiers} - K={memory.small_purifiers}"
        yield at_most(name, (memory.large_bytes - memory.small_bytes) / 2**20, allowed / 2**20, "MiB")
    for loop in report.loop:
        name = "loop, saving / possible" if loop.saving else "loop / possible"
        yield at_least(name, loop.frames_per_s / loop.possible_frames_per_s, LOOP_BOUND)
    if report.start is not None:
        yield at_most("first result", median(report.start.seconds), START_BOUND_S, "s")
    if (soak := report.soak) is not None:
        yield at_most("soak: memory growth", soak.growth_bytes / 2**20, GROWTH_BOUND / 2**20, "MiB")
        yield at_most("soak: drift of p50", soak.drift, DRIFT_BOUND)
    if (long := report.unattended) is not None:
        growth = long.growth("resident_bytes") / 2**20
        yield at_most("unattended: memory growth", growth, UNATTENDED_GROWTH_BOUND / 2**20, "MiB")
        yield at_most("unattended: open files more", long.growth("open_files"), LEAK_BOUND)
        yield at_most("unattended: threads more", long.growth("threads"), LEAK_BOUND)
        yield at_most("unattended: unlabelled beyond failures", long.skipped - long.failures, 0)


def gate(report: Report) -> None:
    """Pass a report without failed checks.

    Raises:
        GateError: names every check that failed.
    """
    failed = [check for check in report.checks if not check.passed]
    if failed:
        raise GateError("; ".join(map(says, failed)), hint=_HINT)


def says(check: Check) -> str:
    """``frame / bare: expected at most 1.08, got 1.12``."""
    side = "at least" if check.at_least else "at most"
    unit = f" {check.unit}" if check.unit else ""
    return f"{check.name}: expected {side} {check.bound:.4g}{unit}, got {check.measured:.4g}{unit}"


def at_most(name: str, measured: float, bound: float, unit: str = "") -> Check:
    return Check(name, measured, bound, unit, measured <= bound)


def at_least(name: str, measured: float, bound: float, unit: str = "") -> Check:
    return Check(name, measured, bound, unit, measured >= bound, at_least=True)


def _of_a_frame(stages: Stages) -> Iterator[Check]:
    ours, bare = stages.ours["total"], stages.bare["total"]
    yield at_most("frame / bare", ours.p50_ms / bare.p50_ms, OVERHEAD_BOUND)
    tail = (ours.p99_ms / ours.p50_ms) / (bare.p99_ms / bare.p50_ms)
    yield at_most("p99/p50 of a frame / of the bare", tail, TAIL_BOUND)
    yield at_most("draw", stages.draw_us, DRAW_BOUND_US, "µs")
