"""Pictures from strangers: what is refused, by which name, and that the limit holds before unpacking."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from sdk.errors import SourceError
from sdk.fleet.cluster import worker_variables
from sdk.fleet.pictures import NotAPictureError, TooLargeError, decode
from tests.sdk.fleet.conftest import SIDE, picture


def test_a_picture_is_decoded() -> None:
    pixels = decode(picture(1), "it")
    assert np.array_equal(pixels, np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", SourceError, "it: empty"),
        (b"GET / HTTP/1.1", NotAPictureError, "it: not a picture"),
        (b"%PDF-1.7", NotAPictureError, "it: not a picture"),
        (picture(1)[:-20], SourceError, "it: a damaged picture"),
        (b"\xff\xd8\xff", SourceError, "it: a damaged picture"),
        (picture(1) + bytes(20_000), TooLargeError, r"it: \d+ bytes, expected at most 20000"),
    ],
)
def test_what_is_refused(data: bytes, kind: type[SourceError], words: str) -> None:
    with pytest.raises(kind, match=words):
        decode(data, "it", max_bytes=20_000)


def bomb(side: int) -> bytes:
    """A PNG of ``side`` by ``side`` black pixels, packed to a thousandth."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """In a process as the fleet starts them: it takes far less memory than the picture's 400 MB."""
    code = (
        "import resource, sys; from sdk.fleet.pictures import TooLargeError, decode\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode(data, 'it')\n"
        "except TooLargeError as error: print(error)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=bomb(12_000),
        capture_output=True,
        env={**os.environ, **worker_variables()},
        check=False,
    )
    assert found.returncode == 0, found.stderr.decode()
    assert found.stdout.decode().startswith("it: more than")
