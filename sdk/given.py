"""Read the small files that a user names: options, labels, keys. Pipes too, and nothing that has no end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

MAX_BYTES = 64 << 20


def read_given(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """All bytes of a file or pipe.

    Raises:
        OSError: it can't be read, or holds more than ``max_bytes``, as /dev/zero does; ``strerror`` is fit to
            print.
        ValueError: no file can have that name.
    """
    with Path(path).open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes >> 20} MiB", os.fspath(path))
    return content


def read_given_text(path: str | os.PathLike[str]) -> str:
    """The same as UTF-8 text, whose byte order mark is left out.

    Raises:
        OSError, ValueError: as ``read_given``; ``UnicodeDecodeError`` is of the latter kind.
    """
    return read_given(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
