"""Preview sink: hands each frame to the web server's thread."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from sdk.errors import SinkError
from sdk.sinks import Sink
from sdk.sinks.preview.access import Guard
from sdk.sinks.preview.address import Address
from sdk.sinks.preview.feed import Feed

if TYPE_CHECKING:
    from sdk.bundle import Bundle
    from sdk.result import Result
    from sdk.sinks.preview.metrics import Metrics
    from sdk.sources import Frame, SourceEvent

TOKEN_VARIABLE = "EDGE_PURIFY_TOKEN"


class Preview(Sink):
    """Serves the newest frame as a web page, and the run's figures, from a thread of its own.

    Every request needs a token, which is part of ``url``: a fresh one, or the one in ``$EDGE_PURIFY_TOKEN``.

    Args:
        address: ``[HOST:]PORT``, or an ``Address``; the host is this machine alone by default.
        bundle: the one that is running.
        on_open: called with ``url`` as soon as the page can be seen.
    """

    def __init__(
        self, address: str | Address, bundle: Bundle, *, on_open: Callable[[str], object] | None = None
    ) -> None:
        self.address = Address.parse(address) if isinstance(address, str) else address
        self._guard = Guard.of(os.environ.get(TOKEN_VARIABLE))
        self._bundle = bundle
        self._on_open = on_open
        self._feed = Feed(bundle)
        self._metrics: Metrics | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._listening: Future[int] = Future()
        self._thread = threading.Thread(target=self._serve, name="preview", daemon=True)

    @property
    def url(self) -> str:
        """The page's address, with the token."""
        return self.address.url + self._guard.query

    def open(self) -> None:
        try:
            from sdk.sinks.preview.metrics import Metrics
            from sdk.sinks.preview.server import serve  # noqa: F401 - imported here for its error
        except ImportError as error:
            raise SinkError(
                f"--serve {self.address}: needs packages that can't be imported ({error})",
                hint="pip install 'edge-purify[web]'",
            ) from None
        self._metrics = Metrics(self._bundle)
        self._thread.start()
        try:
            self.address = replace(self.address, port=self._listening.result())
        except (OSError, UnicodeError) as error:  # the latter: a name that no host can have
            self._thread.join()
            reason, hint = _reason(error)
            raise SinkError(f"--serve {self.address}: {reason}", hint=hint) from None
        if self._on_open is not None:
            self._on_open(self.url)

    def write(self, frame: Frame, result: Result) -> None:
        self.write_regions(frame, [result])

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        assert self._metrics is not None, "open the sink first"
        self._feed.add(frame, results)
        self._metrics.add(frame, results)

    def source_changed(self, event: SourceEvent) -> None:
        assert self._metrics is not None, "open the sink first"
        self._feed.change(event)
        self._metrics.change(event)

    def close(self) -> None:
        if self._thread.is_alive() and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _serve(self) -> None:
        try:
            asyncio.run(self._serve_until_closed())
        except BaseException as error:
            if self._listening.done():
                raise
            self._listening.set_exception(error)  # ``open`` waits for it, and raises it

    async def _serve_until_closed(self) -> None:
        from sdk.sinks.preview.server import serve

        assert self._metrics is not None
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(
            self.address,
            self._guard,
            self._feed,
            self._metrics,
            bundle=self._bundle,
            stop=self._stop,
            on_listening=self._listening.set_result,
        )


def _reason(error: OSError | UnicodeError) -> tuple[str, str]:
    """Why nothing can listen there, and what to do."""
    if isinstance(error, UnicodeError):
        return "that is no host's name", "give this machine's own address, or a port alone"
    if error.errno == errno.EADDRINUSE:
        return "another program listens there", "give another port, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return "the system doesn't allow that port", "give one from 1024 on"
    return f"this machine can't listen there ({error.strerror})", "give its own address, or a port alone"
