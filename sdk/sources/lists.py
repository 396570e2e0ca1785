"""Lists of sources: a text file with one a line, a playlist, ``@FILE``, or ``env:NAME`` of the environment.

Playlists are M3U (one that isn't HLS, which is a stream), PLS, and the lists of FFmpeg's ``concat``.

A stream's address holds its password, and what stands on a command line is seen by every user of the machine;
a file or a variable keeps it to one's own.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from sdk.errors import SourceError
from sdk.sources.content import Kind, kind_of, shown, what_text

MAX_LIST_BYTES = 1 << 20


def specs_of(spec: int | str | os.PathLike[str]) -> list[int | str | Path]:
    """The sources that ``spec`` stands for: what a list holds, or ``spec`` alone where it is none.

    Raises:
        SourceError: a list that can't be read, is empty, or has a line that is no source; the message names
            the line by its number, and does not repeat it where that could show a password.
    """
    if isinstance(spec, int):
        return [spec]
    text = os.fspath(spec)
    if text.startswith("env:") and not os.path.exists(text):  # noqa: PTH110 - Path's own may raise
        return list(_of_variable(text[4:]))
    if text.startswith("@") and not os.path.exists(text):  # noqa: PTH110
        return list(_of_file(Path(text[1:]), chosen=True))
    if "://" in text or not os.path.isfile(text):  # noqa: PTH113
        return [spec if isinstance(spec, str) else Path(text)]
    path = Path(text)
    try:
        is_text = kind_of(path) is Kind.TEXT
    except (OSError, SourceError):
        is_text = False  # the reader says what is wrong
    return list(_of_file(path, chosen=False)) if is_text else [spec if isinstance(spec, str) else path]


def _of_variable(name: str) -> list[str]:
    lines = [line.strip() for line in os.environ.get(name, "").splitlines() if line.strip()]
    if not lines:
        raise SourceError(
            f"env:{name}: this environment variable is not set, or empty",
            hint="set it to a source, one a line",
        )
    return lines


def _of_file(path: Path, *, chosen: bool) -> list[str]:
    """A list file's sources; names in it are relative to its folder.

    ``chosen`` says that the user called it a list; another text file must be one in every line.
    """
    name = shown(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{name}: can't be read: {error.strerror}") from None
    if len(data) > MAX_LIST_BYTES:
        raise SourceError(
            f"{name}: a text file of more than 1 MiB", hint="give a video, a picture, or a list"
        )
    if not chosen and (what := what_text(path)) is not None:
        raise SourceError(f"{name}: {what}, which isn't served", hint="give a video, a picture, or a list")
    entries = _entries(_decoded(data))
    if not entries:
        raise SourceError(f"{name}: a list without a source in it", hint="write one source a line")
    sources = []
    for number, line in entries:
        source = _resolve(line, path.parent)
        if source is None:
            what = f"line {number} is no source" if chosen else "a text file, neither a video nor a picture"
            raise SourceError(
                f"{name}: {what}",
                hint="a list has one file, folder, camera or URL a line, as seen from its folder",
            )
        sources.append(source)
    return sources


def _decoded(data: bytes) -> list[str]:
    """Lines of a text file: UTF-16 by its mark, as Windows writes it, or else file names' own encoding."""
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16", errors="replace") if is_utf16 else os.fsdecode(data)
    return [line.strip() for line in text.removeprefix("\ufeff").splitlines()]


def _entries(lines: list[str]) -> list[tuple[int, str]]:
    """What a list names, each with its line's number; comments and a playlist's other lines are left out."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not numbered:
        return []
    first = numbered[0][1].lower()
    if first == "[playlist]":
        pattern = r"File\d+\s*=\s*(.+)"
    elif first.startswith("ffconcat ") or re.fullmatch(_CONCAT, numbered[0][1]):
        pattern = _CONCAT
    else:
        return numbered
    matches = [(number, re.fullmatch(pattern, line, re.IGNORECASE)) for number, line in numbered]
    return [(number, match[1].replace("'\\''", "'")) for number, match in matches if match is not None]


_CONCAT = r"file\s+'?(.+?)'?"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/]")


def _resolve(line: str, folder: Path) -> str | None:
    """A line as a source: a URL, a camera's number, or a name or glob that exists, from the list's folder."""
    if _URL.match(line) or (line.isascii() and line.isdecimal() and len(line) < 10):
        return line
    bare = line[1:-1] if line[:1] in ("'", '"') and line[-1:] == line[:1] else line
    try:
        names = dict.fromkeys((line, bare, os.path.expanduser(bare)))  # noqa: PTH111 - may not be UTF-8
        paths = [path for name in names for path in (folder / name, Path(name))]
        return next((str(path) for path in paths if path.exists() or _matches(str(path))), None)
    except (OSError, ValueError):  # too long, or a NUL
        return None


def _matches(pattern: str) -> bool:
    """Whether a name is a glob that finds something."""
    return glob.has_magic(pattern) and next(glob.iglob(pattern, recursive=True), None) is not None  # noqa: PTH207
