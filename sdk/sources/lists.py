"""Lists of sources: a text file with one a line, ``@FILE``, or ``env:NAME``, an environment variable.

A stream's address holds its password, and what stands on a command line is seen by every user of the machine;
a file or a variable keeps it to one's own.
"""

from __future__ import annotations

import os
from pathlib import Path

from sdk.errors import SourceError
from sdk.sources.content import Kind, kind_of, shown

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
    lines = [line.strip() for line in os.fsdecode(data).removeprefix("\ufeff").splitlines()]
    entries = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
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


def _resolve(line: str, folder: Path) -> str | None:
    """A line as a source: a URL, a camera's number, or a name that exists, from the list's folder."""
    if "://" in line or (line.isascii() and line.isdecimal() and len(line) < 10):
        return line
    try:
        return next((str(path) for path in (folder / line, Path(line)) if path.exists()), None)
    except (OSError, ValueError):  # too long, or a NUL
        return None
