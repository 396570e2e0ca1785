"""How ``edge-train`` speaks and ends: errors and stops as one line, bars, and a line on a run's progress."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import click

from sdk.errors import EdgePurifyError

if TYPE_CHECKING:
    from trainer.data.download.fetch import OnProgress
    from trainer.loop.progress import Progress

STOPPED = 130
LINE_EVERY_S = 30.0  # off a terminal, where every line stays


class Stopped(EdgePurifyError):
    """Ctrl-C or SIGTERM ended the work; the message says what goes on from where."""

    exit_code = STOPPED


class Group(click.Group):
    """Prints the project's errors, and a stop, as one line, with their exit codes."""

    def invoke(self, ctx: click.Context) -> None:
        try:
            with _sigterm_as_ctrl_c():
                super().invoke(ctx)
            return
        except Stopped as stop:
            message, code = f"stopped; {stop}", stop.exit_code
        except KeyboardInterrupt:
            message, code = "stopped", STOPPED
        except EdgePurifyError as error:
            message, code = f"error: {error}", error.exit_code
        if code == STOPPED and sys.stderr.isatty():
            click.echo(err=True)  # the progress line, and ^C, keep theirs
        if code != STOPPED or is_first_process():
            click.echo(f"edge-train: {message}", err=True)
        ctx.exit(code)


def is_first_process() -> bool:
    """Of those that ``torchrun`` started: one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def bars() -> Iterator[OnProgress]:
    """A bar for each thing that is being done; off a terminal, a line every half minute."""
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
                tasks[what] = shown.add_task(what)
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
            click.echo(f"{what}: {done} of {total}" if total else f"{what}: {done}", err=True)


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


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which service managers and ``torchrun`` send, end the work as Ctrl-C does."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
