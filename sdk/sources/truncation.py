"""Is a media file whole?  The file itself says so; OpenCV reports damage as a mere end of the stream.

OpenCV's frame count can't tell: for Matroska and others it is the duration times a guessed frame rate, too
high in healthy files whose sound outlasts their picture.  The sizes in the outer structure can.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_PNG = b"\x89PNG\r\n\x1a\n"


def is_cut_short(path: Path) -> bool:
    """Whether an MP4, MOV, AVI or Matroska file ends before its structure does; False if nobody can know."""
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[4:8] in _MP4_FIRST_BOXES:
            end = _mp4_end(stream, path.stat().st_size)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            end = _riff_end(stream, path.stat().st_size)
        elif head[:4] == _EBML:
            end = _matroska_end(stream)
        else:
            return False
    return end > path.stat().st_size


def counts_frames(path: Path) -> bool:
    """Whether the container stores its number of frames (MP4, MOV, AVI), so OpenCV need not estimate it."""
    with path.open("rb") as stream:
        head = stream.read(12)
    return head[4:8] in _MP4_FIRST_BOXES or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


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


def _mp4_end(stream: BinaryIO, file_size: int) -> int:
    """Where the last box ends.  ISO/IEC 14496-12, 4.2: size 1 means a 64-bit size follows, 0 'to the end'."""
    position = 0
    while position < file_size:
        stream.seek(position)
        header = stream.read(16)
        if len(header) < 8:
            return file_size + 1
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return file_size
        position += size
    return position


def _riff_end(stream: BinaryIO, file_size: int) -> int:
    """Where the last RIFF chunk ends; files over 1 GiB have several (OpenDML), and 0 was never filled in."""
    position = 0
    while position < file_size:
        stream.seek(position)
        header = stream.read(8)
        if header[:4] != b"RIFF" or len(header) < 8:
            return position  # trailing bytes that are no part of the video
        size = int.from_bytes(header[4:8], "little")
        if size == 0:
            return file_size
        position += 8 + size + size % 2
    return position if size % 2 == 0 else position - 1  # the padding byte may be absent


def _matroska_end(stream: BinaryIO) -> int:
    """Where the segment ends, by RFC 8794's variable-length sizes; 0 if the writer left it unknown (live)."""
    stream.seek(len(_EBML))
    header_size = _ebml_size(stream)
    if header_size is None:
        return 0
    stream.seek(header_size, 1)
    if stream.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    segment_size = _ebml_size(stream)
    return 0 if segment_size is None else stream.tell() + segment_size


def _ebml_size(stream: BinaryIO) -> int | None:
    first = stream.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + stream.read(width - 1), "big")
    return None if value == (1 << 7 * width) - 1 else value
