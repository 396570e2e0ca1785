"""The page's HTTP: methods, paths, headers, hosts, tokens, bodies that never come; and the page goes on."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from sdk.bundle import Bundle
from sdk.sinks.preview import Preview
from tests.conftest import write_tiny_bundle
from tests.fuzz import bar
from tests.fuzz.inputs import corpus, mutated
from tests.sdk.conftest import make_frame, make_result
from tests.sdk.sinks.preview.helpers import get

ANSWER_S = 3.0  # a frame is waited for two seconds
PATHS = (
    "/",
    "/frame",
    "/frame?after=",
    "/status",
    "/metrics",
    "/healthz",
    "/page.js",
    "/pair.png",
    "/..%2f",
    "*",
    "",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "get", "G\0T", "PRI")
NAMES = (
    "Host", "Origin", "Sec-Fetch-Site", "Authorization", "Content-Length", "Transfer-Encoding", "Expect",
    "Range", "Upgrade", "Connection", "Cookie", "Content-Encoding", "X" * 9000,
)  # fmt: skip
VALUES = (
    "", "127.0.0.1", "evil.example", "cross-site", "null", "chunked", "-1", "9" * 20, "100-continue",
    "websocket", "Bearer ", "Bearer \x80", "gzip", "bytes=0-", "a" * 20_000, "\x00", "keep-alive, close",
)  # fmt: skip


class Noted(logging.Handler):
    """What the server's event loop could not handle."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Shared(NamedTuple):
    preview: Preview
    noted: Noted


def prepare(folder: Path, stack: ExitStack) -> Shared:
    write_tiny_bundle(folder / "bundle")
    noted = Noted()
    for name in ("sdk", "aiohttp", "asyncio"):
        logging.getLogger(name).addHandler(noted)
    preview = stack.enter_context(Preview("0", Bundle.open(folder / "bundle")))
    preview.write(make_frame(), make_result())
    return Shared(preview, noted)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, or several in a row, put together from parts that don't fit."""
    target = draw(st.sampled_from(PATHS)) + draw(
        st.sampled_from(["", "", "?token=TOKEN", "?token=%ff", "?source=%00"])
    )
    lines = [
        f"{draw(st.sampled_from(METHODS))} {target} HTTP/{draw(st.sampled_from(['1.1', '1.0', '2.0', '9']))}"
    ]
    headers = st.tuples(st.sampled_from(NAMES), st.one_of(st.sampled_from(VALUES), st.text(max_size=20)))
    lines += [f"{name}: {value}" for name, value in draw(st.lists(headers, max_size=5))]
    end = draw(st.sampled_from(["\r\n\r\n", "\r\n\r\n", "\n\n", "\r\n", ""]))
    return "\r\n".join(lines).encode(errors="replace") + end.encode() + draw(st.binary(max_size=50))


def attempt(data: st.DataObject, shared: Shared, folder: Path) -> None:
    preview = shared.preview
    request = data.draw(
        st.one_of(requests(), mutated(corpus("requests")), st.binary(max_size=200)), "request"
    )
    token = preview.url.partition("token=")[2]
    request = request.replace(b"TOKEN", token.encode())
    pieces, half_closed = (
        data.draw(st.sampled_from([1, 1, 1, 3]), "pieces"),
        data.draw(st.booleans(), "half closed"),
    )
    address = ("127.0.0.1", preview.address.port)
    with bar.held(folder):
        with socket.create_connection(address, timeout=ANSWER_S) as client, suppress(OSError):
            for piece in _pieces(request, pieces):
                client.sendall(piece)
            if half_closed:
                client.shutdown(socket.SHUT_WR)
                answer = client.recv(1 << 16)
                assert not answer or answer.startswith(b"HTTP/"), answer[:50]
        preview.write(make_frame(), make_result())
        assert get(preview.url, "healthz").code == 200, "the page is gone"
    if failures := [line for line in shared.noted.lines if "Traceback" in line or "Error handling" in line]:
        shared.noted.lines.clear()
        raise bar.Missed(f"an error inside the server: {failures[0]}")


def _pieces(request: bytes, count: int) -> Iterator[bytes]:
    size = max(1, len(request) // count)
    for start in range(0, len(request), size):
        yield request[start : start + size]
