"""HTTP in front of the replicas: pictures in, records out, and no more at a time than they can take.

``POST /purify`` takes an encoded picture as its body. Every request but ``/healthz`` needs the token, as for
the page. What a stranger may cost is bounded: connections, bytes and seconds of a request, and how many wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sdk.bundle import Bundle
from sdk.sinks.preview.access import Guard, is_cross_site
from sdk.sinks.preview.gate import BACKLOG
from sdk.sinks.preview.guarded import Bounds, GuardedServer

PATIENCE_S = 30.0  # for a request's body
ANSWER_S = 60.0
TRIES = 3  # of a request, where a replica is lost
MAX_CONNECTIONS = 512
MAX_SOURCE = 200  # characters
SECONDS = (1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OPEN_PATHS = frozenset({"/healthz"})
_TYPES = ("image/", "application/octet-stream")
_USAGE = "POST /purify with a picture as the body; GET /healthz, /metrics\n"

Ask = Callable[[bytes, int, str], Awaitable[tuple[int, bytes]]]
Healthy = Callable[[], bool]


class Lost(Exception):
    """The replica that had the request is gone; another may be asked."""


class Full(Exception):
    """No replica takes more requests."""


@dataclass(frozen=True)
class Limits:
    """What a gateway takes.

    Attributes:
        max_bytes: of a request's body.
        pending: requests at a time; more are told to come again.
    """

    max_bytes: int = 8 << 20
    pending: int = 64


class Gateway:
    """Routes of the service.

    Args:
        ask: has a replica answer; raises ``Lost`` or ``Full``.
        healthy: whether replicas are there; may block.
    """

    def __init__(self, bundle: Bundle, guard: Guard, ask: Ask, healthy: Healthy, limits: Limits) -> None:
        self._guard, self._ask, self._healthy, self._limits = guard, ask, healthy, limits
        self._pending = 0
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "edge_purify_requests", "Requests by answer.", ("status",), registry=self._registry
        )
        self._seconds = Histogram(
            "edge_purify_request_seconds",
            "From a request's first byte to its answer.",
            buckets=SECONDS,
            registry=self._registry,
        )
        waiting = Gauge("edge_purify_requests_pending", "Requests at work.", registry=self._registry)
        waiting.set_function(lambda: self._pending)
        Info("edge_purify_bundle", "The bundle that is running.", registry=self._registry).info(
            {"name": bundle.manifest.name, "family": bundle.manifest.family, "sha256": bundle.digest}
        )

    async def serve(
        self, host: str, port: int, *, stop: asyncio.Event, on_listening: Callable[[int], None]
    ) -> None:
        """Answer requests until ``stop``; ``on_listening`` gets the port.

        Raises:
            OSError: the address can't be listened on.
        """
        routes = [
            web.get("/", self._usage),
            web.post("/purify", self._purify),
            web.get("/healthz", self._healthz),
            web.get("/metrics", self._metrics),
        ]
        bounds = Bounds(
            connections=MAX_CONNECTIONS, backlog=8 * BACKLOG, body=self._limits.max_bytes, shutdown_s=5.0
        )
        server = GuardedServer("gateway", routes, self._refusal, bounds)
        await server.serve(host, port, stop=stop, on_listening=on_listening)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if is_cross_site(request.path, request.headers):
            return _error(403, "this service answers no other web site")
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        token = given.strip() if scheme.lower() == "bearer" else request.query.get("token")
        if request.path in OPEN_PATHS or self._guard.admits(token):
            return None
        refused = _error(401, "the token is missing or wrong; send it as 'Authorization: Bearer TOKEN'")
        refused.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        return refused

    async def _usage(self, request: web.Request) -> web.Response:
        return web.Response(text=_USAGE)

    async def _metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})

    async def _healthz(self, request: web.Request) -> web.Response:
        healthy = await asyncio.to_thread(self._healthy)
        return web.Response(status=200 if healthy else 503, text="ok\n" if healthy else "no replica\n")

    async def _purify(self, request: web.Request) -> web.Response:
        begun = time.perf_counter()
        if self._pending >= self._limits.pending:
            answer = _again()
        else:
            self._pending += 1
            try:
                answer = await self._answer(request)
            finally:
                self._pending -= 1
        self._requests.labels(str(answer.status)).inc()
        self._seconds.observe(time.perf_counter() - begun)
        return answer

    async def _answer(self, request: web.Request) -> web.Response:
        kind = request.headers.get(hdrs.CONTENT_TYPE, _TYPES[-1]).lower()
        if not kind.startswith(_TYPES) and kind != "application/x-www-form-urlencoded":  # curl's, unasked
            return _error(415, f"Content-Type {kind}: expected image/* or application/octet-stream")
        index = request.query.get("frame", "0")
        if not (index.isascii() and index.isdecimal() and len(index) <= 18):
            return _error(400, "frame: expected a number")
        source = request.query.get("source", "http")
        if len(source) > MAX_SOURCE:
            return _error(400, f"source: expected at most {MAX_SOURCE} characters")
        if (request.content_length or 0) > self._limits.max_bytes:
            return self._too_large()
        try:
            data = await asyncio.wait_for(request.read(), PATIENCE_S)
        except web.HTTPRequestEntityTooLarge:
            return self._too_large()
        except asyncio.TimeoutError:
            return _error(408, f"the picture didn't arrive within {PATIENCE_S:.0f} s")
        return await self._ask_replicas(data, int(index), source)

    async def _ask_replicas(self, data: bytes, index: int, source: str) -> web.Response:
        for _ in range(TRIES):
            try:
                status, body = await asyncio.wait_for(self._ask(data, index, source), ANSWER_S)
            except Lost:
                continue
            except Full:
                return _again()
            except asyncio.TimeoutError:
                return _error(504, f"no replica answered within {ANSWER_S:.0f} s")
            return web.Response(status=status, body=body, content_type="application/json")
        return _error(503, "replicas are lost one after the other")

    def _too_large(self) -> web.Response:
        refused = _error(413, f"more than {self._limits.max_bytes} bytes")
        refused.force_close()  # the rest of the body isn't read
        return refused


def _again() -> web.Response:
    answer = _error(429, "too many requests at a time; try again")
    answer.headers[hdrs.RETRY_AFTER] = "1"
    answer.force_close()  # the body isn't read
    return answer


def _error(status: int, text: str) -> web.Response:
    body: Any = msgspec.json.encode({"error": text})
    return web.Response(status=status, body=body, content_type="application/json")
