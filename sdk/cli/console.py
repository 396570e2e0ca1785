"""Terminal output of the loop: a line per frame, a progress bar, the closing summary."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from sdk.host.terminal import escape

if TYPE_CHECKING:
    from sdk.meter import Summary
    from sdk.result import Result
    from sdk.sources import Frame

MAX_NAMES = 10  # of labels or engines, on a line of the summary


def frame_line(frame: Frame, result: Result) -> str:
    """``frame 12  cat 0.93  purifier-02 × classifier-01  2.1 ms``, with every vote's engines."""
    decision = f"no label ({result.error})" if result.label is None else f"{result.label} {result.score:.2f}"
    engines = ", ".join(f"{draw.purifier_id} × {draw.classifier_id}" for draw in result.draws)
    return f"frame {frame.index}  {decision}  {engines}  {result.timings.total_ms:.1f} ms"


class Progress:
    """A progress bar on stderr, if that is a terminal; a context manager. ``total`` is None if unknown."""

    def __init__(self, name: str, total: int | None, *, hidden: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(show_speed=True),
            TimeRemainingColumn(),
            TextColumn("{task.fields[label]}"),
            console=console,
            disable=hidden or not console.is_terminal,
            redirect_stdout=False,
            transient=True,
        )
        self._task = self._bar.add_task(escape(name), total=total, label="")

    def advance(self, label: str = "") -> None:
        """One frame is done; ``label`` stands behind the bar."""
        self._bar.update(self._task, advance=1, label=escape(label))

    def close(self) -> None:
        self._bar.stop()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def show_summary(summary: Summary) -> None:
    """Print what a run did, on stderr; nothing if it had not one frame."""
    if not summary.frames:
        return
    console = Console(stderr=True, highlight=False)
    counts = f"{summary.frames} frames in {summary.seconds:.1f} s, {summary.frames_per_s:.1f} frames/s"
    for count, what in ((summary.skipped, "without a label"), (summary.missed, "missed while busy")):
        counts += f", {count} {what}" if count else ""
    console.print(counts + (", interrupted" if summary.interrupted else ""), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for name, shares in (
        ("labels", summary.labels),
        ("purifiers", summary.purifiers),
        ("classifiers", summary.classifiers),
    ):
        table.add_row(f"[bold]{name}[/]", escape(_shares(shares)))
    console.print(table)
    console.print(_stages(summary))
    if summary.seeded:
        console.print("[bold red]seeded: these draws were predictable and protected nothing[/]")


def _stages(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stage", style="bold")
    for percent in ("p50", "p90", "p99"):
        table.add_column(f"{percent} ms", justify="right")
    for name, times in summary.stages.items():
        table.add_row(name, *(f"{value:.2f}" for value in times))
    return table


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return few([f"{name} {count} ({count / total:.0%})" for name, count in counts.items()]) or "none"


def few(names: Sequence[str]) -> str:
    """The names in one line, the first ``MAX_NAMES`` of them."""
    more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
