"""A web server for a port that strangers reach: every request is admitted first, connections are bounded, and
the log holds nothing that was sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from sdk.sinks.preview.access import HEADERS
from sdk.sinks.preview.gate import BACKLOG, IDLE_S, Gate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refusal = Callable[[web.Request], "web.Response | None"]

_log = logging.getLogger("sdk")


@dataclass(frozen=True)
class Bounds:
    """What a server takes.

    Attributes:
        connections: at a time; ``gate.MAX_CONNECTIONS`` where it is None.
        backlog: connections that may be accepted before the first is looked at.
        body: bytes of a request.
        shutdown_s: seconds that requests under way are given at the end.
    """

    connections: int | None = None
    backlog: int = BACKLOG
    body: int = 1 << 20
    shutdown_s: float = 1.0


class GuardedServer:
    """Answers by handlers what ``refusal`` lets pass.

    Args:
        name: for the log.
        routes: each with its handler.
        refusal: the answer to a request that is not admitted, else None.
    """

    def __init__(
        self, name: str, routes: Iterable[web.AbstractRouteDef], refusal: Refusal, bounds: Bounds
    ) -> None:
        self._name, self._routes, self._refusal, self._bounds = name, routes, refusal, bounds
        self._gate: Gate | None = None

    async def serve(
        self, host: str, port: int, *, stop: asyncio.Event, on_listening: Callable[[int], None]
    ) -> None:
        """Answer until ``stop``; ``on_listening`` gets the port as soon as requests are answered.

        Raises:
            OSError: the address can't be listened on.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._note)
        runner = web.AppRunner(
            self._app(),
            handle_signals=False,
            access_log=None,  # it would hold the token
            logger=_request_log(self._name),
            shutdown_timeout=self._bounds.shutdown_s,
            keepalive_timeout=IDLE_S,
            lingering_time=1.0,
        )
        await runner.setup()
        assert runner.server is not None
        self._gate = Gate(runner.server, most=self._bounds.connections)
        try:
            listening = await loop.create_server(
                self._gate.protocol, host, port, backlog=self._bounds.backlog, reuse_address=True
            )
            try:
                on_listening(listening.sockets[0].getsockname()[1])
                await stop.wait()
            finally:
                listening.close()
        finally:
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._admitted], client_max_size=self._bounds.body)
        app.add_routes(self._routes)
        app.on_response_prepare.append(_add_headers)
        return app

    @web.middleware
    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if self._gate is not None and transport is not None:
            self._gate.work(transport)
        try:
            return self._refusal(request) or await handler(request)
        finally:
            if self._gate is not None and transport is not None and not transport.is_closing():
                self._gate.wait(transport)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep a connection's failure, such as no descriptor being left for it, to the log."""
        _log.debug("%s: %s: %s", self._name, context.get("message"), context.get("exception"))


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


class _Failures(logging.Handler):
    """One line for each request whose handler failed, and none for what is no request.

    aiohttp would print a traceback for both, with what was sent in it: anyone who reaches the port could fill
    the log, and a token in a wrong address would stand there.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, HttpProcessingError):
            _log.warning("%s: a request failed: %s", record.name, type(error).__name__)


def _request_log(name: str) -> logging.Logger:
    log = logging.Logger(name)  # outside of the hierarchy, so that no handler but this one hears of it
    log.addHandler(_Failures())
    return log
