"""Plot of a long unattended run: memory, open files, threads and latency over its intervals.

edge-purify benchmark --soak-hours 1 --size 320x240 --json > soak.json
python benchmarks/soak_plot.py soak.json soak.png
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib as mpl
import msgspec
from matplotlib.figure import Figure

from sdk.benchmark import Report
from sdk.benchmark.report import Unattended


@click.command()
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("image", type=click.Path(dir_okay=False, path_type=Path))
def main(report: Path, image: Path) -> None:
    """Write IMAGE (.png or .svg) from the JSON of a benchmark with --soak-hours."""
    try:
        found = msgspec.json.decode(report.read_bytes(), type=Report).unattended
    except msgspec.MsgspecError as error:
        raise click.ClickException(f"{report}: no report of a benchmark: {error}") from None
    if found is None:
        raise click.ClickException(f"{report}: holds no unattended run; measure with --soak-hours")
    mpl.use("Agg")
    draw(found).savefig(image, dpi=120)


def draw(found: Unattended) -> Figure:
    """Three panels over the same hours."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    memory, counts, latency = figure.subplots(3, sharex=True)
    minutes = [interval.ended_s / 60 for interval in found.intervals]
    memory.plot(minutes, [one.resident_bytes / 2**20 for one in found.intervals], marker="o")
    memory.set_ylabel("resident memory, MiB")
    memory.set_ylim(bottom=0)
    frames = sum(interval.frames for interval in found.intervals)
    losses = sum(interval.losses for interval in found.intervals)
    memory.set_title(
        f"{found.hours:g} h, {frames:,} frames; camera lost {losses} times, engines failed {found.failures} "
        f"times, {found.visits} visits to the page",
        fontsize="medium",
    )
    for what, label in (("open_files", "open files"), ("threads", "threads")):
        counts.plot(minutes, [getattr(one, what) for one in found.intervals], marker="o", label=label)
    counts.set_ylim(bottom=0)
    counts.legend()
    for quantile in ("p50", "p90", "p99"):
        times = [getattr(one.latency, f"{quantile}_ms") for one in found.intervals]
        latency.plot(minutes, times, marker="o", label=quantile)
    latency.set_ylabel("a frame, ms")
    latency.set_yscale("log")
    latency.set_xlabel("minutes")
    latency.legend()
    return figure


if __name__ == "__main__":
    main()
