"""A benchmark report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sdk.benchmark.report import Quantiles, Report, Stages, Unattended
from sdk.host.terminal import escape, printable


def render(report: Report) -> Group:
    """The whole report."""
    parts: list[Text | Table] = [Text(printable(_title(report), keep="\n"), style="bold")]
    if report.stages is not None:
        parts.append(_stages(report.stages))
    if rows := list(_figures(report)):
        parts.append(_grid(rows))
    if report.unattended is not None:
        parts.append(_unattended(report.unattended))
    if report.checks:
        parts.append(_checks(report))
    return Group(*parts)


def _title(report: Report) -> str:
    return (
        f"{report.bundle}, images of {report.image_width}x{report.image_height}, "
        f"frames of {report.frame_width}x{report.frame_height}\n"
        f"{report.backend} {report.version} {report.precision}, threads {report.threads}, CPUs {report.cpus}"
    )


def _stages(stages: Stages) -> Table:
    table = Table(title=f"a frame, votes {stages.votes}, ms", title_justify="left")
    table.add_column("")
    for quantile in ("p50", "p90", "p99"):
        table.add_column(quantile, justify="right")
    for prefix, group in (("", stages.ours), ("bare ", stages.bare), ("", stages.engines)):
        last = list(group)[-1]
        for name, times in group.items():
            table.add_row(escape(prefix + name), *_quantiles(times), end_section=name == last)
    return table


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    """What stands in no other table, a line each."""
    if report.stages is not None:
        yield "frames/s", f"{report.stages.frames_per_s:.0f}, a draw {report.stages.draw_us:.1f} µs"
    if (preprocess := report.preprocess) is not None:
        plain_ms = preprocess.full_centre.p50_ms
        yield "preprocess", f"{preprocess.ours.p50_ms:.3f} ms, plain INTER_AREA {plain_ms:.3f} ms"
    for voted in report.votes:
        yield f"votes {voted.votes}", f"{voted.ours.p50_ms:.3f} ms, bare {voted.bare.p50_ms:.3f} ms"
    for bank in report.banks:
        yield f"K={bank.purifiers}", "p50 {}, p90 {}, p99 {} ms".format(*_quantiles(bank.ours))
    for found in report.precisions:
        yield (
            found.precision,
            f"{found.frame.p50_ms:.3f} ms, its engines {found.engines.p50_ms:.3f} ms"
            + (" (graphs for CPUs)" if found.graphs == "cpu" else ""),
        )
    if (memory := report.memory) is not None:
        small, large = memory.small_bytes / 2**20, memory.large_bytes / 2**20
        yield (
            "memory",
            f"K={memory.small_purifiers} {small:.1f} MiB, K={memory.large_purifiers} {large:.1f} MiB, "
            f"files added {memory.added_files_bytes / 2**20:.2f} MiB",
        )
    for loop in report.loop:
        alone = ", ".join(f"{name} {time_ms:.2f}" for name, time_ms in loop.stages_ms.items())
        yield (
            "loop, saving" if loop.saving else "loop",
            f"{loop.frames_per_s:.0f} frames/s of {loop.possible_frames_per_s:.0f} possible; "
            f"alone {alone} ms, CPU {loop.cpu_ms:.2f} ms",
        )
    if report.start is not None:
        seconds = report.start.seconds
        yield "first result", f"{median(seconds):.2f} s, from {min(seconds):.2f} to {max(seconds):.2f} s"
    if (soak := report.soak) is not None:
        yield (
            "soak",
            f"{soak.frames} frames, {soak.growth_bytes / 2**20:+.2f} MiB; p50 of the first tenth "
            f"{soak.ours_ms[0]:.3f} ms (bare {soak.bare_ms[0]:.3f}), of the last {soak.ours_ms[-1]:.3f} ms "
            f"(bare {soak.bare_ms[-1]:.3f})",
        )
    for name, reason in report.not_measured.items():
        yield name, f"not measured: {reason}"


def _unattended(found: Unattended) -> Table:
    """A row for each interval."""
    title = (
        f"unattended, {found.hours:g} h: {found.failures} engine failures, {found.visits} visits to the page"
    )
    table = Table(title=title, title_justify="left")
    for column in ("end, min", "frames", "losses", "MiB", "files", "threads", "p50", "p90", "p99 ms"):
        table.add_column(column, justify="right")
    for one in found.intervals:
        table.add_row(
            f"{one.ended_s / 60:.1f}",
            *map(str, (one.frames, one.losses)),
            f"{one.resident_bytes / 2**20:.1f}",
            *map(str, (one.open_files, one.threads)),
            *_quantiles(one.latency),
        )
    return table


def _grid(rows: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, text in rows:
        grid.add_row(f"[bold]{escape(name)}[/]", escape(text))
    return grid


def _checks(report: Report) -> Table:
    table = Table(title="checks", title_justify="left")
    table.add_column("")
    for column in ("measured", "bound"):
        table.add_column(column, justify="right")
    table.add_column("")
    for check in report.checks:
        side, unit = "≥" if check.at_least else "≤", f" {check.unit}" if check.unit else ""
        verdict = "[green]ok[/]" if check.passed else "[bold red]failed[/]"
        table.add_row(
            escape(check.name), f"{check.measured:.3f}{unit}", f"{side} {check.bound:.4g}{unit}", verdict
        )
    return table


def _quantiles(times: Quantiles) -> tuple[str, str, str]:
    return f"{times.p50_ms:.3f}", f"{times.p90_ms:.3f}", f"{times.p99_ms:.3f}"
