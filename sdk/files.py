"""Atomic writes: a file is filled under a random name in the same folder, then renamed to its own.

    write_atomically("report.json", data)

    with replacing("weights.npz") as stream:
        np.savez(stream, **arrays)

    file = AtomicFile("out.jsonl")  # in steps, for what is written over a longer time
    stream = file.create()
    file.publish()  # gives the name already, so that readers can follow what is added
    file.finish()

A crash leaves the old file or the new one, whole. Nothing here follows a link that was planted under the
temporary name, or writes into a device. Every function raises ``OSError``; its ``strerror`` is fit to print.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PREFIX = ".edge-purify-"
MAX_SUFFIX = 16  # characters of a suffix that the temporary name keeps, since writers choose a format by it
STALE_S = 3600.0
_MAX_LINKS = 40  # as in Linux
_MAX_TRIES = 100


class NotAFile(OSError):
    """The path can't name a new file: it is a folder, a device, a pipe or a stranger's link."""


class AtomicFile:
    """One file that is being written; where ``path`` is a link, the file that the link points to.

    Args:
        path: of the file; it is replaced.
        durable: flush file and folder to the disk on ``finish``, so that a power cut can't lose them.
        inside: a folder whose content may be a stranger's: the file must lie in it, whatever links its
            folders are, and a link at ``path`` itself is replaced, not followed.

    Attributes:
        path: as given.
        part: where the content is until ``publish`` or ``finish``: in the same folder, with the same suffix.
        is_published: whether the content has its name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = True,
        inside: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._inside = inside
        self.part = self.path  # until ``create``
        self._durable = durable
        self._final = self.path
        self._stream: IO[bytes] | None = None
        self.is_published = False

    def create(self, *, buffering: int = -1) -> IO[bytes]:
        """Create the temporary file and open it for writing and reading.

        Args:
            buffering: as for ``open``; 0 writes every piece at once.

        Raises:
            NotAFile: there is something else than a file at ``path``.
            OSError: the file can't be created.
        """
        self._final = (
            _destination(self.path) if self._inside is None else _destination_inside(self.path, self._inside)
        )
        self.part, descriptor = _create_beside(self._final)
        self._stream = os.fdopen(descriptor, "w+b", buffering=buffering)
        return self._stream

    def publish(self) -> None:
        """Give the file its name now; what is written later appears there.

        Raises:
            OSError: it can't be renamed.
        """
        if not self.is_published:
            self.part.replace(self._final)
            self.is_published, self.part = True, self._final

    def finish(self) -> None:
        """Close the file, and give it its name; the file that had the name is replaced.

        Raises:
            OSError: it can't be written or renamed; an unpublished part is removed.
        """
        try:
            if self._stream is not None:
                self._stream.flush()
                if self._durable:
                    os.fsync(self._stream.fileno())
            self.publish()
            if self._durable:
                _sync_folder(self._final.parent)
        except OSError:
            self.discard()
            raise
        self._close()

    def discard(self) -> None:
        """Close the file, and remove it if it has no name yet; harmless after ``finish``."""
        self._close()
        if not self.is_published and self.part != self.path:
            with suppress(OSError):
                self.part.unlink()

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OSError):  # a full disk, which ``flush`` has reported
                stream.close()


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, durable: bool = True, inside: str | os.PathLike[str] | None = None
) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes ``path`` on leaving; on an error the old file stays.

    ``durable`` and ``inside`` are as for ``AtomicFile``.

    Raises:
        OSError: the file can't be written.
    """
    file = AtomicFile(path, durable=durable, inside=inside)
    stream = file.create()
    try:
        yield stream
    except BaseException:
        file.discard()
        raise
    file.finish()


def write_atomically(
    path: str | os.PathLike[str],
    data: bytes | str,
    *,
    durable: bool = True,
    inside: str | os.PathLike[str] | None = None,
) -> None:
    """Replace ``path`` by ``data``; text is written as UTF-8. See ``AtomicFile`` for the options.

    Raises:
        OSError: the file can't be written; the old one stays.
    """
    with replacing(path, durable=durable, inside=inside) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def write_output(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write what a user asked for at ``path``: atomically, or straight into a pipe or device.

    Raises:
        OSError: it can't be written.
    """
    if is_stream(path):
        with Path(path).open("wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
    else:
        write_atomically(path, data)


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether there is a pipe or a device at ``path``, which must not be replaced."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def require_writable(path: str | os.PathLike[str]) -> None:
    """Prove that ``write_atomically`` could write ``path``, by creating and removing a temporary file.

    Raises:
        OSError: it could not.
    """
    file = AtomicFile(path)
    file.create()
    file.discard()


def remove_stale_parts(folder: str | os.PathLike[str], *, older_than_s: float = STALE_S) -> None:
    """Remove temporary files that a killed process left in ``folder``.

    Args:
        folder: is searched without its sub-folders.
        older_than_s: spares files that another process may still be writing; 0 where a lock excludes that.
    """
    with suppress(OSError):
        for path in Path(folder).glob(f"{PREFIX}*"):
            found = path.lstat()
            is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            if is_ours and found.st_mtime <= time.time() - older_than_s:
                path.unlink()


def refuse_planted_link(path: Path) -> None:
    """Refuse a link that another user made in a folder where everybody may write; anything else is fine.

    Raises:
        NotAFile: it is such a link.
    """
    if not path.is_symlink():
        return
    folder, owner = path.parent.stat(), path.lstat().st_uid
    if folder.st_mode & stat.S_IWOTH and owner not in (os.geteuid(), folder.st_uid):
        raise NotAFile(errno.EACCES, "is a link that another user made in a shared folder")


def _destination(path: Path) -> Path:
    """The path behind all links.

    A link in a folder where everybody may write counts only if the user or the folder's owner made it, as
    with Linux's ``fs.protected_symlinks``.
    """
    try:
        for _ in range(_MAX_LINKS):
            if not path.is_symlink():
                break
            refuse_planted_link(path)
            path = path.parent / path.readlink()
        path = Path(os.path.realpath(path.parent), path.name)
        found = path.lstat()
    except FileNotFoundError:
        return path
    except ValueError:  # a NUL, or characters that the file system has no bytes for
        raise OSError(errno.EINVAL, "a file's name can't hold such characters") from None
    mode, folder = found.st_mode, path.parent.stat()
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if stat.S_ISDIR(mode):
        raise NotAFile(errno.EISDIR, "is a folder, expected a file's name")
    if not stat.S_ISREG(mode):
        raise NotAFile(errno.EINVAL, "is a device or a pipe, expected a file's name")
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, found.st_uid, folder.st_uid):
        raise NotAFile(errno.EPERM, "belongs to another user, who alone may replace it in this folder")
    return path


def _destination_inside(path: Path, folder: str | os.PathLike[str]) -> Path:
    """``path`` with its folders' links resolved, once it is known to lie in ``folder``."""
    parent = Path(os.path.realpath(path.parent))
    if not parent.is_relative_to(os.path.realpath(folder)):
        raise NotAFile(errno.EACCES, "leads outside the folder by a link")
    found = parent / path.name
    if found.is_dir() and not found.is_symlink():
        raise NotAFile(errno.EISDIR, "is a folder, expected a file's name")
    return found


def _create_beside(final: Path) -> tuple[Path, int]:
    suffix = final.suffix if len(final.suffix) <= MAX_SUFFIX else ""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_MAX_TRIES):
        part = final.parent / f"{PREFIX}{secrets.token_hex(8)}{suffix}"
        with suppress(FileExistsError):
            return part, os.open(part, flags, 0o666)
    raise OSError(errno.EEXIST, "no free name for a temporary file")


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the user may open it and its file system can do that."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


@contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """A file to be locked, open as a descriptor; created where it is absent, and never followed as a link.

    Raises:
        OSError: it can't be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
