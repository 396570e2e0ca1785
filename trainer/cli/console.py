"""Progress of ``edge-train``: bars on a terminal, lines in a log, and one line for a training run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from sdk.cli.app import is_first_process
from sdk.host.terminal import echo, escape

if TYPE_CHECKING:
    from trainer.data.download.fetch import OnProgress
    from trainer.loop.progress import Progress

LINE_EVERY_S = 30.0  # off a terminal, where every line stays


@contextmanager
def bars() -> Iterator[OnProgress]:
    """A bar for each thing that is being done; off a terminal, a line every half minute.

    Of several processes the first one shows them.
    """
    if not is_first_process():
        yield lambda what, done, total: None
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    tasks: dict[str, TaskID] = {}
    with Bars(console=Console(stderr=True), transient=True) as shown:

        def update(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(escape(what))
            shown.update(tasks[what], completed=done, total=total)

        yield update


class _Lines:
    """Progress for a log: what is being done and how far, every half minute at most."""

    def __init__(self) -> None:
        self.shown = time.monotonic()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self.shown >= LINE_EVERY_S:
            self.shown = now
            echo(f"{what}: {done} of {total}" if total else f"{what}: {done}", err=True)


class Line:
    """Progress as one line: rewritten in place on a terminal, every half minute elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.shown = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        at_end = bool(progress.validation)
        if not at_end and now - self.shown < (0.5 if self.terminal else LINE_EVERY_S):
            return
        self.shown = now
        shown = progress.validation or progress.terms
        figures = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        left = timedelta(seconds=round(progress.seconds_left))
        text = (
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
            f"{progress.images_per_s:.0f} images/s  {left} left  {'validation: ' if at_end else ''}{figures}"
        )
        click.echo(f"\r\x1b[2K{text}" if self.terminal else text, err=True, nl=at_end or not self.terminal)
