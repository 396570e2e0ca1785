"""The thread that does a backend's GPU work, and releases it there: on close, when forgotten, and at exit.

CUDA contexts and TensorRT objects belong to the thread that made them. A context that is still current when
its thread ends aborts the process (with pycuda), and an object that is destroyed on another thread corrupts
it. So the thread outlives everything that it holds: it ends only after ``release`` has run on it.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

EXIT_S = 10.0  # that the end of the process waits for a GPU that may be stuck

T = TypeVar("T")
_living: set[GpuThread] = set()


class GpuThread:
    """A daemon thread that runs one call after the other.

    Daemon, since the interpreter joins other threads before it runs its exit handlers, and a release that
    comes then would find no thread to run on.

    Args:
        release: run on the thread as its last call; it may not refer to what is waited for to be forgotten.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self.process = os.getpid()
        self._release = release
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._released: Future[None] | None = None
        self._thread = threading.Thread(target=_run, args=(self._calls,), name="gpu", daemon=True)
        self._thread.start()
        _living.add(self)

    def call(self, work: Callable[[], T]) -> T:
        """Do ``work`` on the thread, and wait for its result or exception."""
        return self._put(work).result()

    def close(self, *, wait: bool = True) -> None:
        """Release and end the thread, once; with ``wait``, raises what the release raised."""
        if os.getpid() != self.process:  # after a fork the thread isn't here, and what it holds isn't ours
            return
        with self._closing:
            if self._released is None:
                self._released = self._put(self._release)
                self._calls.put(None)
                _living.discard(self)
        if wait:
            self._released.result()
            self._thread.join()

    def close_at_exit(self) -> None:
        self.close(wait=False)
        if os.getpid() == self.process:
            self._thread.join(EXIT_S)

    def _put(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put((future, work))
        return future


def _run(calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (entry := calls.get()) is not None:
        future, work = entry
        try:
            future.set_result(work())
        except BaseException as error:  # the caller's to handle, whatever it is
            future.set_exception(error)
        del entry, future, work  # an idle thread keeps nothing alive


@atexit.register
def _close_all() -> None:
    """Release what nobody closed, before the interpreter takes its modules down."""
    for thread in list(_living):
        with suppress(Exception):
            thread.close_at_exit()
