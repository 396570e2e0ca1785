"""Supervision by systemd: readiness, a heartbeat while frames are worked on, and a status line.

    watchdog = Watchdog.from_environment()  # None where systemd did not start the process with Type=notify
    run(purifier, source, [watchdog] if watchdog else [])

The protocol is that of ``sd_notify(3)``.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sdk.errors import SinkError
from sdk.sinks.base import Sink
from sdk.sources.state import SourceEvent, SourceState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdk.result import Result
    from sdk.sources import Frame

STATUS_S = 10.0  # between status lines where no heartbeat is asked for
_BEATS = 3  # heartbeats in the time that systemd waits for one


class Watchdog(Sink):
    """Tells systemd READY, WATCHDOG and STOPPING.

    A heartbeat is sent while frames come out, and while no source is live: a camera that is unplugged is no
    reason to restart. It is left out where a source is live and yet no result has come for ``timeout_s``,
    as when an engine or a disk hangs.

    Args:
        address: systemd's socket: a path, or a name that begins with ``@``.
        timeout_s: after which systemd restarts the service; None if it doesn't watch.
        clock: gives seconds; for tests.
    """

    def __init__(
        self, address: str, timeout_s: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._timeout_s = timeout_s
        self._clock = clock
        self._written_s = clock()
        self._n_frames = 0
        self._states: dict[str, SourceState] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="watchdog", daemon=True)

    @classmethod
    def from_environment(cls) -> Watchdog | None:
        """The watchdog that systemd's variables ask for, which child processes then don't see; or None."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return None
        watches = microseconds.isdecimal() and int(microseconds) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if watches else None)

    def open(self) -> None:
        self._written_s = self._clock()
        try:
            self._send("READY=1\nSTATUS=waiting for the first frame")
        except OSError as error:
            raise SinkError(
                f"systemd's socket {self._address!r} can't be written: {error.strerror or error}",
                hint="unset NOTIFY_SOCKET, or set NotifyAccess=main in the unit",
            ) from None
        self._thread.start()

    def write(self, frame: Frame, result: Result) -> None:
        self.write_regions(frame, [result])

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        self._written_s = self._clock()
        self._n_frames += 1

    def source_changed(self, event: SourceEvent) -> None:
        if event.state is SourceState.LIVE:  # its first result is not due before now
            self._written_s = self._clock()
        self._states = {**self._states, event.source: event.state}

    def close(self) -> None:
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            with suppress(OSError):
                self._send("STOPPING=1")

    @property
    def is_alive(self) -> bool:
        """Whether a heartbeat is due: results come, or no source is live that they could come from."""
        is_silent = self._timeout_s is not None and self._clock() - self._written_s > self._timeout_s
        is_live = SourceState.LIVE in self._states.values() if self._states else self._n_frames > 0
        return not (is_silent and is_live)

    def _beat(self) -> None:
        interval_s = STATUS_S if self._timeout_s is None else self._timeout_s / _BEATS
        while not self._stop.wait(interval_s):
            states = ", ".join(f"{name} {state.value}" for name, state in self._states.items())
            status = f"STATUS={self._n_frames} frames{'; ' + states if states else ''}".replace("\n", " ")
            with suppress(OSError):  # systemd is being restarted: the next one is heard
                self._send(f"WATCHDOG=1\n{status}" if self._timeout_s and self.is_alive else status)

    def _send(self, text: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sender:
            sender.settimeout(1.0)
            sender.connect(self._address)
            sender.send(text.encode(errors="backslashreplace"))
