"""Kind of a media file, told from its first bytes: a name says little, and FFmpeg opens text as video."""

from __future__ import annotations

import enum
import os
import re
import stat
import zlib
from pathlib import Path
from typing import Literal

from sdk.errors import SourceError

_HEAD_BYTES = 4096
_PNG = b"\x89PNG\r\n\x1a\n"
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"}
_PICTURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+",  # TIFF
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
)  # fmt: skip
_NOT_SERVED = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"8BPS": "a Photoshop picture",
    b"gimp xcf": "a GIMP picture",
    b"v/1\x01": "an OpenEXR picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL picture",
    b"FUJIFILMCCD-RAW": "a camera's raw picture",
    b"IIRO\x08": "a camera's raw picture",  # Olympus
    b"IIRS\x08": "a camera's raw picture",
    b"IIU\x00": "a camera's raw picture",  # Panasonic
    b"FOVb": "a camera's raw picture",  # Sigma
    b"\x00MRM": "a camera's raw picture",  # Minolta
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!\x1a": "a RAR archive",
    b"BZh9": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"(\xb5/\xfd": "a Zstandard archive",
    b"ID3": "a sound file",
    b"fLaC": "a sound file",
    b"MThd": "a sound file",
    b"#!AMR": "a sound file",
    b"\x7fELF": "a program",
    b"MZ\x90\x00": "a program",
    b"SQLite format 3\x00": "a database",
    b"\x93NUMPY": "a NumPy array",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Office document",
}
_NOT_LISTS = {
    b"<?xml": "an XML document",
    b"<svg": "an SVG drawing",
    b"<html": "a web page",
    b"<!doctype html": "a web page",
    b"<MPD": "a DASH manifest",
    b"v=0": "an SDP session description",
}
_DNG_VERSION, _NEW_SUBFILE_TYPE = 50706, 254
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
MJPEG_SUFFIXES = (".mjpeg", ".mjpg")
_VIDEO_TEXTS = (b"YUV4MPEG2",)  # text by their first line, and yet video


class Kind(enum.Enum):
    """What the reader of a file must be."""

    PICTURE = "picture"
    VIDEO = "video"
    TEXT = "text"
    PIPE = "pipe"


def kind_of(path: Path) -> Kind:
    """The kind of the file at ``path``; a pipe isn't read, since what is read from it is gone.

    Raises:
        SourceError: it is empty, a device, or a kind that isn't served, by name.
        OSError: it can't be read.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return Kind.PIPE
    if not stat.S_ISREG(mode):
        raise SourceError(
            f"{shown(path)}: is a device or a socket",
            hint="give a file, a pipe, a camera such as /dev/video0, or a URL",
        )
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise SourceError(f"{shown(path)}: the file is empty", hint="get it again")
    return _kind_of_head(head, path)


def _kind_of_head(head: bytes, path: Path) -> Kind:
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        raise SourceError(
            f"{shown(path)}: a HEIF picture (HEIC, AVIF), which isn't served",
            hint="convert it to JPEG or PNG",
        )
    if (head[:4] == b"RIFF" and head[8:12] == b"WAVE") or head[4:12] in (b"ftypM4A ", b"ftypM4B "):
        raise SourceError(
            f"{shown(path)}: a sound file, which isn't served", hint="give a video, or a picture"
        )
    if head[4:12] == b"ftypcrx " or _is_raw_tiff(head):
        raise SourceError(
            f"{shown(path)}: a camera's raw picture, which isn't served", hint="convert it to JPEG or PNG"
        )
    for magic, what in _NOT_SERVED.items():
        if head.startswith(magic):
            hint = "convert it to JPEG or PNG" if "picture" in what else "give a video, or a picture"
            raise SourceError(f"{shown(path)}: {what}, which isn't served", hint=hint)
    if head.startswith(_VIDEO_TEXTS) or (head.startswith(b"#EXTM3U") and b"#EXT-X-" in head):
        return Kind.VIDEO
    if head.startswith(b"\xff\xd8\xff") and path.suffix.lower() in MJPEG_SUFFIXES:
        return Kind.VIDEO  # JPEGs one after the other
    if _is_picture(head):
        return Kind.PICTURE
    return Kind.TEXT if _is_text(head) else Kind.VIDEO


def looks_like_picture(data: bytes) -> bool:
    """Whether the first bytes of ``data`` are a picture's."""
    return _is_picture(data[:_HEAD_BYTES])


def _is_picture(head: bytes) -> bool:
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":  # two letters are not enough: the header's size is one of a few
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return head.startswith(_PICTURES) or re.match(rb"P[1-6]\s+[\d#]", head) is not None


def _is_raw_tiff(head: bytes) -> bool:
    """Whether a TIFF is a camera's raw picture (CR2, DNG, NEF, ARW): its first page is a small preview."""
    if head[:4] not in (b"II*\x00", b"MM\x00*"):
        return False
    if head[8:10] == b"CR":
        return True
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    at = int.from_bytes(head[4:8], order)
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(head[at : at + 2], order), 12):
        tag = int.from_bytes(head[entry : entry + 2], order)
        value = int.from_bytes(head[entry + 8 : entry + 12], order)
        if tag == _DNG_VERSION or (tag == _NEW_SUBFILE_TYPE and value & 1):
            return True
    return False


def what_text(path: Path) -> str | None:
    """What kind of text a file holds, where that is one that is known and no list; None otherwise."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"<MPD" in head:
        return _NOT_LISTS[b"<MPD"]
    return next(
        (what for magic, what in _NOT_LISTS.items() if head[: len(magic)].lower() == magic.lower()), None
    )


def _is_text(head: bytes) -> bool:
    """No control character but white space, and UTF-8 or another superset of ASCII."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, by its mark
        return True
    controls = set(range(32)) - {9, 10, 12, 13, 27}
    return not any(byte in controls or byte == 127 for byte in head)


def is_damaged_png(data: bytes) -> bool:
    """Whether ``data`` is a PNG with a chunk cut short or changed (by its CRC).

    OpenCV would return nothing either, but libpng prints a line of its own first.
    """
    if not data.startswith(_PNG):
        return False
    position, view = len(_PNG), memoryview(data)
    while position + 12 <= len(data):
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            return True
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return True
        if bytes(view[position + 4 : position + 8]) == b"IEND":
            return False
        position = end
    return True


def has_more_pictures(data: bytes) -> bool:
    """Whether a picture file holds several: pages of a TIFF, or an animation in PNG or WebP."""
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        at = int.from_bytes(data[4:8], order)
        n_entries = int.from_bytes(data[at : at + 2], order)
        return int.from_bytes(data[at + 2 + 12 * n_entries : at + 6 + 12 * n_entries], order) != 0
    if data.startswith(_PNG):
        return b"acTL" in data[: data.find(b"IDAT")]
    return data[8:12] == b"WEBP" and data[12:16] == b"VP8X" and b"ANIM" in data[:64]


class NativeName:
    """A name that native libraries can open a file by, for as long as this object is open.

    They take UTF-8 alone, and OpenCV ends the process at any other; such a file is opened here and passed as
    ``/proc/self/fd/N``. A relative name is made absolute, since FFmpeg takes 12:30.avi for a protocol.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._descriptor: int | None = None
        self.name = os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps dots
        try:
            self.name.encode()
        except UnicodeEncodeError:
            self._descriptor = os.open(path, os.O_RDONLY)
            self.name = f"/proc/self/fd/{self._descriptor}"

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message or a result: bytes that are no UTF-8 as ``\\xe9``."""
    return os.fspath(path).encode(errors="backslashreplace").decode() if _is_odd(path) else os.fspath(path)


def _is_odd(path: str | os.PathLike[str]) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in os.fspath(path))
