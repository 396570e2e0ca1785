"""Web server of the preview: the page, its pictures, and figures for machines, on an event loop of its own.

A viewer gets the newest frame whenever it has taken the one before, so a slow one sees fewer frames and holds
nobody up; one that takes nothing for ``PATIENCE_S`` is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.resources import files

import msgspec
from aiohttp import hdrs, web

from sdk.bundle import Bundle
from sdk.sinks.preview.access import OPEN_PATHS, Guard, is_cross_site
from sdk.sinks.preview.address import Address
from sdk.sinks.preview.encode import Pictures, pair
from sdk.sinks.preview.feed import Feed, Shown
from sdk.sinks.preview.guarded import Bounds, GuardedServer, Handler
from sdk.sinks.preview.metrics import CONTENT_TYPE, Metrics

MAX_VIEWERS = 8  # of the live stream at once
MAX_FRAMES_PER_S = 15
PATIENCE_S = 10.0
LONG_POLL_S = 2.0

_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_BOUNDARY = b"--frame\r\n"


async def serve(
    address: Address,
    guard: Guard,
    feed: Feed,
    metrics: Metrics,
    *,
    bundle: Bundle,
    stop: asyncio.Event,
    on_listening: Callable[[int], None],
) -> None:
    """Serve until ``stop``; ``on_listening`` gets the port as soon as requests are answered.

    Raises:
        OSError: the address can't be listened on.
    """
    page = _Page(guard, feed, metrics, bundle=bundle, stop=stop)
    server = GuardedServer("preview", page.routes(), page.refusal, Bounds())
    await server.serve(address.host, address.port, stop=stop, on_listening=on_listening)


class _Page:
    """The routes. ``/healthz`` and the page's static parts are open to all, and hold nothing secret."""

    def __init__(
        self, guard: Guard, feed: Feed, metrics: Metrics, *, bundle: Bundle, stop: asyncio.Event
    ) -> None:
        self._guard = guard
        self._feed = feed
        self._metrics = metrics
        self._stop = stop
        folder = files("sdk.sinks.preview").joinpath("static")
        self._page = folder.joinpath("page.html").read_bytes()
        self._static = {
            "/" + name: (folder.joinpath(name).read_bytes(), kind) for name, kind in _STATIC.items()
        }
        self._pictures = Pictures(bundle.labels)
        self._viewers = 0

    def routes(self) -> list[web.RouteDef]:
        handlers: dict[str, Handler] = {
            "/": self._index,
            "/frame": self._frame,
            "/live.mjpg": self._live,
            "/pair.png": self._pair,
            "/status": self._status,
            "/metrics": self._prometheus,
            "/healthz": self._healthz,
            **dict.fromkeys(self._static, self._part),
        }
        return [web.get(path, handler) for path, handler in handlers.items()]

    def refusal(self, request: web.Request) -> web.Response | None:
        if is_cross_site(request.path, request.headers):
            return web.Response(status=403, text="this page answers no other web site\n")
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        token = given if scheme.lower() == "bearer" else request.query.get("token")
        if request.path in OPEN_PATHS or self._guard.admits(token):
            return None
        return web.Response(
            status=401,
            headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
            text="the token is missing or wrong: take the address as edge-purify printed it\n",
        )

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(body=self._page, content_type="text/html", charset="utf-8")

    async def _part(self, request: web.Request) -> web.Response:
        body, kind = self._static[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _status(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._feed.status()), content_type="application/json")

    async def _prometheus(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _healthz(self, request: web.Request) -> web.Response:
        healthy = self._feed.trouble is None
        return web.Response(status=200 if healthy else 503, text="ok\n" if healthy else "stalled\n")

    async def _pair(self, request: web.Request) -> web.Response:
        newest = self._feed.newest
        data = pair(newest) if newest is not None else None
        if data is None:
            return web.Response(status=404, text="no purified frame yet, or the newest was skipped\n")
        return web.Response(body=data, content_type="image/png" if data[:1] == b"\x89" else "image/jpeg")

    async def _frame(self, request: web.Request) -> web.Response:
        """The newest frame after number ``after``, as soon as there is one; 204 if none comes for a while."""
        try:
            after = int(request.query.get("after", "0"))
        except ValueError:
            return web.Response(status=400, text="after: expected a frame's number\n")
        source = request.query.get("source")
        deadline = asyncio.get_running_loop().time() + LONG_POLL_S
        while True:
            shown = self._feed.newest_of(source)
            if shown is not None and shown.number > after:
                body = self._pictures.message(shown)
                return web.Response(body=body, content_type="application/octet-stream")
            if self._stop.is_set() or asyncio.get_running_loop().time() > deadline:
                return web.Response(status=204)
            await asyncio.sleep(1 / (2 * MAX_FRAMES_PER_S))

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= MAX_VIEWERS:
            return web.Response(status=503, text=f"{MAX_VIEWERS} are watching, which is as many as can\n")
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
            newest: Shown | None = self._feed.newest
            if newest is not None and newest.number != sent:
                sent = newest.number
                jpeg = self._pictures.annotated(newest)
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                # the next boundary goes along, since browsers show a picture when they see its end
                await asyncio.wait_for(response.write(head + jpeg + b"\r\n" + _BOUNDARY), PATIENCE_S)
            await asyncio.sleep(1 / MAX_FRAMES_PER_S)
