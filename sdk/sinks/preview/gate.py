"""Connection limits of the preview, so that nobody who connects can take what the camera's loop needs.

Each connection must begin a request within ``IDLE_S``, and the number of connections is capped, lower where
the process may open few files. One too many is told so and closed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, cast

MAX_CONNECTIONS = 64
RESERVED_DESCRIPTORS = 64  # for cameras, files and engines
IDLE_S = 10.0
BACKLOG = 16  # connections that may be accepted before the first is looked at

_TOO_MANY = b"too many connections to this page; close some and try again\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_TOO_MANY)
) + _TOO_MANY


class Gate:
    """Counts a server's connections and drops idle ones.

    Args:
        protocol: makes the protocol of each.
        most: at a time, ``MAX_CONNECTIONS`` by default.
    """

    def __init__(self, protocol: Callable[[], asyncio.BaseProtocol], *, most: int | None = None) -> None:
        self._most = most
        self._inner = protocol
        self._limit = _descriptor_limit()
        self._timers: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def protocol(self) -> asyncio.Protocol:
        return _Gated(self, cast("asyncio.Protocol", self._inner()))

    def admit(self, transport: asyncio.Transport) -> bool:
        """Count a new connection; False if there are too many, or if it took one of the last descriptors."""
        reserve = min(RESERVED_DESCRIPTORS, self._limit // 2)
        descriptor: int = transport.get_extra_info("socket").fileno()  # the lowest that was free
        most = MAX_CONNECTIONS if self._most is None else self._most
        if len(self._timers) >= most or descriptor >= self._limit - reserve:
            return False
        self.wait(transport)
        return True

    def wait(self, transport: asyncio.BaseTransport) -> None:
        """From now on a request must begin within ``IDLE_S``."""
        self.work(transport)
        self._timers[transport] = asyncio.get_running_loop().call_later(IDLE_S, _abort, transport)

    def work(self, transport: asyncio.BaseTransport) -> None:
        """A request began: its handler sees to its own time-outs."""
        if (timer := self._timers.get(transport)) is not None:
            timer.cancel()

    def leave(self, transport: asyncio.BaseTransport) -> None:
        self.work(transport)
        self._timers.pop(transport, None)


class _Gated(asyncio.Protocol):
    """Hands an admitted connection's events to the web server's own protocol."""

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self._gate = gate
        self._inner: asyncio.Protocol | None = inner
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._inner is not None and self._gate.admit(self._transport):
            self._inner.connection_made(transport)
            return
        self._inner = None
        self._transport.write(_REFUSAL)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._gate.leave(self._transport)
        if self._inner is not None:
            self._inner.connection_lost(exc)


def _abort(transport: Any) -> None:
    transport.abort()


def _descriptor_limit() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 1 << 16
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else os.sysconf("SC_OPEN_MAX")
