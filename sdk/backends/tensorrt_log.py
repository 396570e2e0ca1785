"""TensorRT's log: one logger for each module and process, whose lines reach the thread that caused them.

TensorRT keeps the first logger that it is given for ever, in its global logger and its plugin registry. One
that is freed crashes the process at the next message, so a module's logger is never freed here, and everyone
who starts a runtime or builder gives the same one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from typing import Any

_logs: dict[
    int, tuple[Any, Any]
] = {}  # by the module's id: the module, which keeps the id its own, and its log
_making = threading.Lock()


def log_of(module: Any) -> Any:
    """The logger of a TensorRT module: an ``ILogger`` that lives as long as the process."""
    with _making:
        if id(module) not in _logs:
            _logs[id(module)] = module, _make_log(module)
        return _logs[id(module)][1]


@contextmanager
def errors_into(log: Any, lines: MutableSequence[str]) -> Iterator[None]:
    """Collect in ``lines`` the errors that this thread causes, and those of TensorRT's own threads."""
    log.add(lines)
    try:
        yield
    finally:
        log.remove(lines)


def _make_log(module: Any) -> Any:
    base: Any = module.ILogger
    kept = (base.INTERNAL_ERROR, base.ERROR)

    class Log(base):  # type: ignore[misc]
        """Keeps errors and prints nothing."""

        def __init__(self) -> None:
            base.__init__(self)  # not by super(): the binding asks for it
            self._sinks: list[tuple[int, MutableSequence[str]]] = []  # with the thread that each belongs to

        def add(self, lines: MutableSequence[str]) -> None:
            self._sinks = [*self._sinks, (threading.get_ident(), lines)]

        def remove(self, lines: MutableSequence[str]) -> None:
            self._sinks = [sink for sink in self._sinks if sink[1] is not lines]

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept:
                sinks, here = self._sinks, threading.get_ident()
                mine = [lines for thread, lines in sinks if thread == here]
                for lines in mine or [lines for _, lines in sinks]:
                    lines.append(msg)

    return Log()
