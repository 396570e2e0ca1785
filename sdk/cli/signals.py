"""Signals that end a command: SIGINT, SIGTERM and SIGHUP all raise KeyboardInterrupt, once.

    with Stops("edge-purify", owns_process=True):
        work()

A second signal while files are being finished is ignored, so that it can't spoil them. A process that doesn't
come back from native code, or doesn't end, is ended.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import NoReturn

STOPPED = 130  # what a shell reports of a command that Ctrl-C ended
AGAIN_S = 5.0  # a signal so long after the last is meant: the first one may have been lost in a callback
DELIVERY_S = 10.0  # for native code to give the interpreter a turn
FINISH_S = 60.0  # for files to be finished

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stops:
    """A context in which the signals raise KeyboardInterrupt on the main thread.

    A signal that the process was started to ignore, as by ``nohup``, stays ignored.

    Args:
        program: heads the line that is printed if the process has to be ended.
        owns_process: the process ends after this context, so its handlers stay in place until then; else the
            handlers from before are put back.

    Attributes:
        received: whether a signal came.
        exit_code: what the process is about to exit with, if a signal comes after this context.
    """

    def __init__(self, program: str, *, owns_process: bool = False) -> None:
        self.received = False
        self.exit_code = STOPPED
        self._ignored = False
        self._program = program
        self._owns_process = owns_process
        self._before: dict[int, object] = {}
        self._raised_at: float | None = None

    def ignore(self) -> None:
        """The work is done: from here on a signal changes nothing of how it ends."""
        self._ignored = True

    def __enter__(self) -> Stops:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers
        for each in _SIGNALS:
            before = signal.getsignal(each)
            if before is not signal.SIG_IGN:
                self._before[each] = before
                signal.signal(each, self._raise)
        if self._owns_process and self._before:
            self._watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, before in self._before.items():
            if not self._owns_process:
                signal.signal(each, before)  # type: ignore[arg-type]  # what getsignal gave
            else:  # every file is finished
                signal.signal(each, signal.SIG_IGN if self.received else self._exit)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._ignored:
            return
        if self._raised_at is not None and now - self._raised_at < AGAIN_S:
            return
        self._raised_at, self.received = now, True
        raise KeyboardInterrupt

    def _exit(self, number: int, frame: FrameType | None) -> NoReturn:
        os._exit(self.exit_code)

    def _watch(self) -> None:
        """Have a thread told of signals by the C handler, which runs while native code holds the main one."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _thread.start_new_thread(self._end_if_stuck, (reading,))

    def _end_if_stuck(self, reading: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while not (came := set(os.read(reading, 64)) & self._before.keys()):
            pass  # some other signal's number
        began = time.monotonic()
        while not self.received:  # no lock, which a handler could find taken by what it interrupts
            if time.monotonic() - began > DELIVERY_S:
                self._end(f"native code didn't return within {DELIVERY_S:.0f} s")
            time.sleep(0.05)
            if not self.received:  # another thread got it, so the main one may be asleep still
                signal.pthread_kill(threading.main_thread().ident or 0, next(iter(came)))
        time.sleep(FINISH_S)
        self._end(f"it didn't end within {FINISH_S:.0f} s")

    def _end(self, why: str) -> NoReturn:
        line = f"{self._program}: error: stopped by a signal, but {why}; files may be unfinished\n"
        try:
            os.write(2, line.encode())
        finally:
            os._exit(STOPPED)
