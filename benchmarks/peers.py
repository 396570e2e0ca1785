"""edge-purify beside Ultralytics and the Open Edge Model API: the same classifier, the same frames, one run.

    python benchmarks/peers.py [--bundle DIR] [--frames N] [--size WxH] [--json] [--gate]

Overhead is what a frame costs beyond its networks: the time of the call that a user makes, less the time of
the same ONNX Runtime sessions called directly on inputs that are ready. Each side's sessions are its own,
set up as it does that. The sides take turns, ten frames each. Needs ``benchmarks/requirements.txt``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import click
import msgspec
from contenders import Contender, check_wiring, model_api, ours, ultralytics
from rich.console import Console, Group
from rich.table import Table

from sdk import EdgePurifyError
from sdk.arrays import Pixels
from sdk.benchmark.bounds import at_least, at_most, says
from sdk.benchmark.report import Check, Quantiles
from sdk.benchmark.subject import check_size, natural_frame, open_bundle, parse_size
from sdk.benchmark.turns import Milliseconds, quantiles, take_turns
from sdk.bundle import Bundle
from sdk.errors import GateError

IN_A_ROW = 10
OURS, ULTRALYTICS = "edge-purify", "Ultralytics predict"
MODEL_API, MODEL_API_AREA = "Model API", "Model API behind INTER_AREA"
ULTRALYTICS_BOUND = 3.0  # times our overhead, at the least
MODEL_API_BOUND = 1.0  # our overhead over that of the one that anti-aliases, at the most


class Row(msgspec.Struct, frozen=True):
    """One side's figures; ``overhead_ms`` is the difference of the two medians."""

    frame: Quantiles
    network_ms: float
    overhead_ms: float
    preprocessing: str
    aliases: bool


class Comparison(msgspec.Struct, frozen=True):
    """The whole run."""

    versions: dict[str, str]
    frame_width: int
    frame_height: int
    frames: int
    rows: dict[str, Row]
    checks: tuple[Check, ...]


@click.command()
@click.option("--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]")
@click.option("--frames", metavar="N", type=click.IntRange(min=IN_A_ROW), default=300, show_default=True)
@click.option("--size", metavar="WxH", default="1280x720", show_default=True, help="Size of the frames.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--gate", is_flag=True, help="Exit with 3 if a bound is missed.")
def main(bundle: str | None, frames: int, size: str, as_json: bool, gate: bool) -> None:
    """Print what a frame costs in each, and how much of it is overhead."""
    try:
        comparison = compare(open_bundle(bundle), parse_size(size), frames)
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(comparison), indent=2).decode())
        else:
            Console(highlight=False).print(table(comparison))
        failed = [says(check) for check in comparison.checks if not check.passed]
        if gate and failed:
            raise GateError("; ".join(failed))
    except EdgePurifyError as error:
        click.echo(f"peers: error: {error}", err=True)
        sys.exit(error.exit_code)


def compare(bundle: Bundle, frame_size: tuple[int, int], frames: int) -> Comparison:
    """Let the sides take turns on one frame of ``frame_size`` (width, height).

    Raises:
        BackendError: a peer is not installed, or doesn't see in a picture what the classifier sees in it.
    """
    check_size(bundle, frame_size)
    with tempfile.TemporaryDirectory(prefix="edge-purify-") as folder:
        contenders = {OURS: ours(bundle, frame_size)}
        contenders[ULTRALYTICS] = ultralytics(bundle, Path(folder))
        contenders[MODEL_API], contenders[MODEL_API_AREA] = model_api(bundle, Path(folder))
        for name, contender in contenders.items():
            if name != OURS:
                check_wiring(bundle, name, contender.call, frame_size)
        frame = natural_frame(*frame_size)
        sides = {name: _side(contender, frame) for name, contender in contenders.items()}
        times = take_turns(sides, max(frames // IN_A_ROW, 1), calls=IN_A_ROW)
    rows = {}
    for name, contender in contenders.items():
        total, network_ms = quantiles(times[name]["total"]), quantiles(times[name]["network"]).p50_ms
        overhead_ms = total.p50_ms - network_ms
        rows[name] = Row(total, network_ms, overhead_ms, contender.preprocessing, contender.aliases)
    packages = ("edge-purify", "onnxruntime", "ultralytics", "openvino-model-api", "torch")
    versions = {package: version(package) for package in packages}
    return Comparison(versions, *frame_size, frames, rows, tuple(checks(rows)))


def checks(rows: dict[str, Row]) -> list[Check]:
    """The two bounds on our overhead."""
    ours_ms = rows[OURS].overhead_ms
    against_ultralytics = rows[ULTRALYTICS].overhead_ms / ours_ms
    against_model_api = ours_ms / rows[MODEL_API_AREA].overhead_ms
    return [
        at_least(f"overhead of {ULTRALYTICS} / of {OURS}", against_ultralytics, ULTRALYTICS_BOUND),
        at_most(f"overhead of {OURS} / of {MODEL_API_AREA}", against_model_api, MODEL_API_BOUND),
    ]


def table(comparison: Comparison) -> Group:
    """The comparison for a terminal."""
    versions = ", ".join(f"{name} {number}" for name, number in comparison.versions.items())
    size = f"{comparison.frame_width}x{comparison.frame_height}"
    figures = Table()
    figures.add_column("p50, ms")
    for column in ("frame", "its networks", "overhead"):
        figures.add_column(column, justify="right")
    figures.add_column("aliases")
    preprocessing = Table.grid(padding=(0, 2))
    for name, row in comparison.rows.items():
        times_ms = (row.frame.p50_ms, row.network_ms, row.overhead_ms)
        figures.add_row(name, *(f"{ms:.3f}" for ms in times_ms), "yes" if row.aliases else "no")
        preprocessing.add_row(name, row.preprocessing)
    verdicts = [f"{'ok' if check.passed else 'FAILED'}  {says(check)}" for check in comparison.checks]
    return Group(f"{comparison.frames} frames of {size}; {versions}", figures, preprocessing, *verdicts)


def _side(contender: Contender, frame: Pixels) -> Callable[[], Milliseconds]:
    """A frame as the user calls for it, and then the networks alone."""

    def side() -> Milliseconds:
        start = perf_counter()
        contender.call(frame)
        total_ms = (perf_counter() - start) * 1e3
        return {"total": total_ms, **contender.network()}

    return side


if __name__ == "__main__":
    main()
