"""Fetching a published file: resumed where it stopped, held to its checksum, in place whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdk.errors import UsageError
from sdk.files import refuse_planted_link
from trainer.data.dataset import DataError
from trainer.data.download.archive import unpack

OnProgress = Callable[
    [str, int, "int | None"], None
]  # what is being done, how much of it is done, and in all

TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it.

    Attributes:
        name: the last part of its address.
        md5: its published checksum, in hexadecimal.
        gives: where its content goes in the data folder; an archive's is the folder that it unpacks to.
        equals: other content that stands for it where it is there already.
    """

    name: str
    md5: str
    gives: str
    equals: tuple[str, ...] = ()

    def is_in(self, folder: Path) -> bool:
        return any((folder / path).exists() for path in (self.gives, *self.equals))


def fetch_file(file: Published, base_url: str, to: Path, *, on_progress: OnProgress) -> None:
    """Put ``file``'s content into the folder ``to``, unless it is there.

    A file of that name in ``to``, brought by other means, is used in place of a download.

    Args:
        file: what to fetch.
        base_url: http or https address that its name is appended to.
        to: the data folder; made if need be.
        on_progress: called with the file's name, bytes done, and bytes in all where the server tells.

    Raises:
        UsageError: ``base_url`` is no http or https address.
        DataError: no network, a server that refuses, a wrong checksum, a damaged archive, or a full disk.
    """
    if not base_url.startswith(("http://", "https://")):
        raise UsageError(f"--url {base_url}: expected an address that begins with http:// or https://")
    if file.is_in(to):
        return
    fetched, content = to / file.name, to / file.gives
    try:
        to.mkdir(parents=True, exist_ok=True)
        if fetched.is_file():
            _check_md5(fetched, file.md5, "remove it and run again")
        else:
            part = fetched.with_name(fetched.name + ".part")  # a name that the next run finds, to go on from
            refuse_planted_link(part)
            _download(f"{base_url.rstrip('/')}/{file.name}", part, on_progress=on_progress)
            _check_download(part, file.md5)
            part.replace(fetched)
        content.parent.mkdir(exist_ok=True)
        if fetched.name.endswith(".tar.gz"):
            unpack(fetched, content)
            fetched.unlink()
        else:
            fetched.replace(content)
    except OSError as error:
        raise DataError(
            f"{error.filename or to}: can't be written or read: {error.strerror or error}"
        ) from None


def _download(url: str, part: Path, *, on_progress: OnProgress) -> None:
    """Bring ``part`` up to the whole of ``url``, over any number of connections if each brings something."""
    whole = False
    while not whole:
        before = _size(part)
        whole = _receive(url, part, on_progress=on_progress)
        if not whole and _size(part) <= before:
            raise DataError(
                f"{url}: the connection ended after {_size(part)} bytes", hint="run again to go on from there"
            )


def _receive(url: str, part: Path, *, on_progress: OnProgress) -> bool:
    """Append what one connection brings; whether that is all of it."""
    start = _size(part)
    response = _open(url, start, part)
    if response is None:
        return True
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # a server without ranges sends all of it again
        done, total = start, None if response.length is None else start + response.length
        with part.open("ab" if start else "wb") as stream:
            while chunk := _read(response):
                stream.write(chunk)
                done += len(chunk)
                on_progress(part.stem, done, total)
    return chunk is not None and total in (None, done)


def _open(url: str, start: int, part: Path) -> http.client.HTTPResponse | None:
    """The response from byte ``start`` on; None if the server says that nothing is left."""
    headers = {"User-Agent": "edge-purify", **({"Range": f"bytes={start}-"} if start else {})}
    fix = f"give a mirror by --url, or put {part.stem} from elsewhere into {part.parent}, and run again"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise DataError(f"{url}: the server answers {error.code} {error.reason}", hint=fix) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        raise DataError(f"{url}: can't be reached: {reason}", hint=f"check the network, or {fix}") from None
    if not isinstance(response, http.client.HTTPResponse):
        response.close()
        raise DataError(f"{url}: leads to {response.url}, expected http or https", hint=fix)
    found = response.headers.get("Content-Range", "")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT and not found.startswith(f"bytes {start}-"):
        response.close()
        raise DataError(
            f"{url}: expected the bytes from {start} on, the server sent {found!r}",
            hint=f"remove {part}, or {fix}",
        )
    return response


def _read(response: http.client.HTTPResponse) -> bytes | None:
    """The next bytes; empty at the end, None if the connection was cut."""
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException):
        return None


def _check_download(part: Path, expected: str) -> None:
    try:
        _check_md5(part, expected, "it has been removed; run again, or give another mirror by --url")
    except DataError:
        part.unlink()
        raise


def _check_md5(path: Path, expected: str, fix: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise DataError(f"{path}: expected the published md5 {expected}, got {digest.hexdigest()}", hint=fix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
