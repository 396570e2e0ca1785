"""The preview's web server: a page, its pictures, and figures for machines, on an event loop of its own.

A viewer gets the newest frame whenever it has taken the one before, so a slow one sees fewer frames and holds
nobody up; one that takes nothing for ``PATIENCE_S`` is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files

import msgspec
from aiohttp import hdrs, web

from sdk.sinks.preview.address import Address, Guard
from sdk.sinks.preview.encode import LivePicture, pair
from sdk.sinks.preview.feed import Feed
from sdk.sinks.preview.metrics import CONTENT_TYPE, Metrics

MOST_VIEWERS = 8  # of the live picture at once
MOST_FRAMES_PER_S = 15
PATIENCE_S = 10.0
SHUTDOWN_S = 1.0

_HEADERS = {
    hdrs.CACHE_CONTROL: "no-store",
    hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
    "Referrer-Policy": "no-referrer",  # the address may hold the token
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'",
}
_BOUNDARY = b"--frame\r\n"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve(
    address: Address,
    guard: Guard,
    feed: Feed,
    metrics: Metrics,
    *,
    stop: asyncio.Event,
    on_listening: Callable[[int], None],
) -> None:
    """Serve until ``stop``; ``on_listening`` gets the port as soon as requests are answered.

    Raises:
        OSError: the address can't be listened on.
    """
    server = _Server(guard, feed, metrics, stop)
    runner = web.AppRunner(
        server.app(), handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_S
    )  # a log would hold the token
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
        on_listening(runner.addresses[0][1])
        await stop.wait()
    finally:
        await runner.cleanup()


class _Server:
    """The routes; ``/healthz`` alone is open to all, and says no more than whether the loop works."""

    def __init__(self, guard: Guard, feed: Feed, metrics: Metrics, stop: asyncio.Event) -> None:
        self._guard = guard
        self._feed = feed
        self._metrics = metrics
        self._stop = stop
        self._page = files("sdk.sinks.preview").joinpath("page.html").read_bytes()
        self._picture = LivePicture()
        self._viewers = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/live.mjpg", self._live),
                web.get("/pair.png", self._pair),
                web.get("/status", self._status),
                web.get("/metrics", self._prometheus),
                web.get("/healthz", self._healthz),
            ]
        )

        async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
            response.headers.update(_HEADERS)

        app.on_response_prepare.append(add_headers)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        token = given if scheme.lower() == "bearer" else request.query.get("token")
        if request.path == "/healthz" or self._guard.admits(request.host, token):
            return await handler(request)
        if self._guard.token is None:
            return web.Response(status=403, text="ask for this machine as localhost or 127.0.0.1\n")
        return web.Response(
            status=401,
            headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
            text="the token is missing or wrong: take the address as edge-purify printed it\n",
        )

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(body=self._page, content_type="text/html", charset="utf-8")

    async def _status(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._feed.status()), content_type="application/json")

    async def _prometheus(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _healthz(self, request: web.Request) -> web.Response:
        healthy = self._feed.trouble is None
        return web.Response(status=200 if healthy else 503, text="ok\n" if healthy else "stalled\n")

    async def _pair(self, request: web.Request) -> web.Response:
        newest = self._feed.newest
        png = pair(newest) if newest is not None else None
        if png is None:
            return web.Response(status=404, text="no purified frame yet, or the newest was skipped\n")
        return web.Response(body=png, content_type="image/png")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= MOST_VIEWERS:
            return web.Response(status=503, text=f"{MOST_VIEWERS} are watching, which is as many as can\n")
        self._viewers += 1
        try:
            response = web.StreamResponse()
            response.content_type = "multipart/x-mixed-replace"
            response.headers[hdrs.CONTENT_TYPE] += "; boundary=frame"
            await response.prepare(request)
            await response.write(_BOUNDARY)
            await self._send_frames(request, response)
        except (ConnectionError, asyncio.TimeoutError):
            pass  # the viewer is gone, or as good as gone
        finally:
            self._viewers -= 1
        return response

    async def _send_frames(self, request: web.Request, response: web.StreamResponse) -> None:
        sent = 0
        while not self._stop.is_set() and request.transport is not None:
            newest = self._feed.newest
            if newest is not None and newest.number != sent:
                sent = newest.number
                jpeg = self._picture.of(newest)
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                # the next boundary goes along, since browsers show a picture when they see its end
                await asyncio.wait_for(response.write(head + jpeg + b"\r\n" + _BOUNDARY), PATIENCE_S)
            await asyncio.sleep(1 / MOST_FRAMES_PER_S)
