"""The bar that every input is held to: no traceback, no hang, little memory, no file elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click

from sdk.errors import EdgePurifyError

MAX_S = 10
MAX_BYTES = 1 << 30
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
}
_allowed: tuple[str, ...] | None = None  # where the input under trial may write; None between inputs
_outside: list[str] = []


class Missed(AssertionError):
    """An input that the code under trial does not meet the bar with."""


@contextmanager
def held(*folders: Path) -> Iterator[None]:
    """Run one input's trial inside. An error of the SDK's own, of one line, is how it may end.

    Args:
        folders: the ones that it was given to write to, beside the user's cache and state.
    """
    global _allowed
    before = _resident_bytes()
    _reset_peak()
    _outside.clear()
    own = [os.environ[name] for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME") if name in os.environ]
    _allowed = tuple(os.path.realpath(folder) for folder in (*folders, *own))
    try:
        with _at_most(MAX_S):
            yield
    except (EdgePurifyError, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if not text.strip() or "\n" in text.strip():
            raise Missed(f"not one line: {text!r}") from error
    finally:
        _allowed = None
    if _outside:
        raise Missed(f"wrote outside the folders given: {_outside[:3]}")
    if (grown := _peak_bytes() - before) > MAX_BYTES:
        raise Missed(f"took {grown >> 20} MiB")


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """A trial that takes longer ends by an exception, where Python gets a turn; else the runner notices."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Missed(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def watch_files() -> None:
    """From now on note every file that is opened for writing, made, renamed or removed during a trial."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None or (event != "open" and event not in _CHANGES):
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
        return
    path = arguments[0]
    if isinstance(path, int) or path is None:
        return
    real = os.path.realpath(os.fsdecode(path))
    if not real.startswith("/dev/") and not any(
        real == root or real.startswith(root + "/") for root in _allowed
    ):
        _outside.append(f"{event} {real}")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def _resident_bytes() -> int:
    return _status("VmRSS:")


def _peak_bytes() -> int:
    return _status("VmHWM:")


def _reset_peak() -> None:
    with suppress(OSError):  # not on every kernel: the peak is then of the whole run
        Path("/proc/self/clear_refs").write_text("5")
