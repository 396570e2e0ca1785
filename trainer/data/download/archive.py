"""Unpacking an archive that nobody has to trust."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from trainer.data.dataset import DataError

_CHUNK_BYTES = 1 << 20


def unpack(archive: Path, folder: Path) -> None:
    """Unpack ``archive``, a .tar.gz whose content is one folder, so that this folder becomes ``folder``.

    ``folder`` appears whole or not at all.

    Raises:
        DataError: the archive is cut short or damaged; a member is a link, a device, or leads outside; or
            there is no folder of that name in it.
        OSError: the disk is full, or ``folder`` can't be written.
    """
    scratch = folder.with_name(f".{folder.name}.part")
    if scratch.exists():
        shutil.rmtree(scratch)  # what a killed run left
    scratch.mkdir()
    try:
        _extract(archive, scratch)
        if not (scratch / folder.name).is_dir():
            raise DataError(
                f"{archive}: expected a folder {folder.name} in it, found none", hint="get it again"
            )
        (scratch / folder.name).replace(folder)
    finally:
        shutil.rmtree(scratch)


def _extract(archive: Path, into: Path) -> None:
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                _extract_member(archive, tar, member, into)
            while stream.read(_CHUNK_BYTES):  # to the end, where gzip's checksum is
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"{archive}: cut short or damaged ({error})", hint="get it again") from None


def _extract_member(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    path, as_windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if path.anchor or as_windows.anchor or ".." in as_windows.parts:  # Windows takes either slash
        raise DataError(
            f"{archive}: its member {member.name!r} leads outside of it", hint="don't use this archive"
        )
    if member.isdir():
        (into / path).mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise DataError(
            f"{archive}: its member {member.name!r} is neither file nor folder", hint="don't use this archive"
        )
    (into / path).parent.mkdir(parents=True, exist_ok=True)
    with (into / path).open("wb") as stream:
        shutil.copyfileobj(content, stream, _CHUNK_BYTES)
