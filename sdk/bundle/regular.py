"""Read files that may be a stranger's: regular ones alone, and no more than so many bytes of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 1 << 20


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file of at most ``max_bytes``; see ``chunks_of``."""
    return b"".join(chunks_of(path, max_bytes))


def chunks_of(path: Path, max_bytes: int) -> Iterator[bytes]:
    """A file's bytes, piece by piece.

    A pipe or device neither blocks nor passes, and a file that grows while it is read has an end, too.

    Raises:
        OSError: it can't be read, or is a folder.
        ValueError: it is no regular file, or too large.
    """
    # O_NONBLOCK: opening a pipe would otherwise wait for a writer
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is a device or a pipe, expected a file")
        if found.st_size > max_bytes:
            raise ValueError(f"expected at most {max_bytes:,} bytes, got {found.st_size:,}")
        n_read = 0
        while chunk := stream.read(CHUNK_BYTES):
            n_read += len(chunk)
            if n_read > max_bytes:
                raise ValueError(f"expected at most {max_bytes:,} bytes, and it grows")
            yield chunk
