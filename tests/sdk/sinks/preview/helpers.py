"""Clients of the preview: one request, a viewer of the live stream, a raw connection."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import cv2
import msgspec
import numpy as np

from sdk.sinks.preview import Preview
from sdk.sinks.record import Record
from tests.sdk.conftest import DEADLINE_S


class Answer(NamedTuple):
    code: int
    body: bytes
    headers: dict[str, str]


def get(url: str, path: str = "", **headers: str) -> Answer:
    """GET ``path`` under the page's address, with its token; an underscore in a header's name is a hyphen."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    page = urlsplit(url)
    target = page._replace(path="/" + path).geturl()
    try:
        with urlopen(Request(target, headers=headers), timeout=DEADLINE_S) as answer:
            return Answer(answer.status, answer.read(), dict(answer.headers))
    except HTTPError as error:
        return Answer(error.code, error.read(), dict(error.headers))


class Message(NamedTuple):
    """What ``/frame`` gives."""

    number: int
    records: list[Record]
    picture: np.ndarray
    pair: np.ndarray | None


def read_message(body: bytes) -> Message:
    sizes = struct.unpack(">III", body[:12])
    assert len(body) == 12 + sum(sizes)
    starts = [12, 12 + sizes[0], 12 + sizes[0] + sizes[1]]
    text, picture, pair = (body[start : start + size] for start, size in zip(starts, sizes, strict=True))
    found = json.loads(text)
    return Message(
        found["number"],
        msgspec.convert(found["records"], list[Record]),
        cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR),
        cv2.imdecode(np.frombuffer(pair, np.uint8), cv2.IMREAD_COLOR) if pair else None,
    )


class Viewer:
    """Somebody who watches the live picture over a raw connection; HTTP/1.0, whose bodies are not chunked."""

    def __init__(self, preview: Preview) -> None:
        self._socket = socket.create_connection(("127.0.0.1", preview.address.port), timeout=DEADLINE_S)
        query = urlsplit(preview.url).query
        self._socket.sendall(f"GET /live.mjpg?{query} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self._stream = self._socket.makefile("rb")

    def status(self) -> int:
        return int(self._stream.readline().split()[1])

    def pictures(self) -> Iterator[np.ndarray]:
        """Each as soon as it is there whole, to the end of the stream."""
        size = 0
        for line in self._stream:
            if line.startswith(b"Content-Length"):
                size = int(line.split(b":")[1])
            elif line == b"\r\n" and size:
                jpeg = np.frombuffer(self._stream.read(size), np.uint8)
                size = 0
                yield cv2.imdecode(jpeg, cv2.IMREAD_COLOR)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        self._socket.close()


def read_url(stream: IO[str]) -> str:
    line = stream.readline()
    assert line.startswith("edge-purify: preview at http://127.0.0.1:"), line
    return line.split()[-1]


def connect(preview: Preview) -> socket.socket:
    return socket.create_connection(("127.0.0.1", preview.address.port), timeout=DEADLINE_S)
