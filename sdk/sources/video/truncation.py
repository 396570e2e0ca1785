"""Outer structure of a media file: whether the file ends before it does.

For files without an index that says more. A frame count can't tell: for Matroska and others it is the
duration times a guessed frame rate, too high in healthy files whose sound outlasts their picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MP4_MEDIA_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"styp", b"sidx")
_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_FLV_TAGS = (8, 9, 18)  # sound, video, script
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def is_cut_short(path: Path) -> bool:
    """Whether an MP4, MOV, AVI, Matroska, FLV or GIF file ends before its structure does.

    False if nobody can know.
    """
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[4:8] in _MP4_FIRST_BOXES:
            end = _mp4_end(stream, path.stat().st_size)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            end = _riff_end(stream, path.stat().st_size)
        elif head[:4] == _EBML:
            end = _matroska_end(stream)
        elif head[:3] == b"FLV":
            end = _flv_end(stream, path.stat().st_size)
        elif head[:4] == b"GIF8":
            end = _gif_end(stream, path.stat().st_size)
        else:
            return False
    return end > path.stat().st_size


def counts_frames(path: Path) -> bool:
    """Whether the container stores its number of frames (MP4, MOV, AVI), so OpenCV need not estimate it."""
    with path.open("rb") as stream:
        head = stream.read(12)
    return head[4:8] in _MP4_FIRST_BOXES or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def shown_duration_s(path: Path) -> float | None:
    """Seconds that an MP4's edit lists show, of its longest track; None where it has no edit list."""
    with path.open("rb") as stream:
        data = _movie_box(stream, path.stat().st_size)
    header = data.find(b"mvhd")
    if header < 0 or b"elst" not in data:
        return None
    at = header + 4
    timescale = int.from_bytes(data[at + 20 : at + 24] if data[at] else data[at + 12 : at + 16], "big")
    longest, at = 0, data.find(b"elst")
    while at >= 0 and timescale:
        is_long, n_edits = data[at + 4], int.from_bytes(data[at + 8 : at + 12], "big")
        size = 20 if is_long else 12
        edits = [data[at + 12 + i * size : at + 12 + (i + 1) * size] for i in range(min(n_edits, 1000))]
        width = 8 if is_long else 4
        longest = max(
            longest,
            sum(
                int.from_bytes(edit[:width], "big")
                for edit in edits
                if int.from_bytes(edit[width : 2 * width], "big", signed=True) >= 0  # -1 is a pause
            ),
        )
        at = data.find(b"elst", at + 4)
    return longest / timescale if timescale and longest else None


def _movie_box(stream: BinaryIO, file_size: int) -> bytes:
    """The contents of ``moov``; empty where there is none."""
    for name, start, end in _mp4_boxes(stream, file_size):
        if name == b"moov":
            stream.seek(start)
            return stream.read(min(end, file_size) - start)
    return b""


def _mp4_end(stream: BinaryIO, file_size: int) -> int:
    """Where the last box of the video ends; what a camera or a tag writer put behind it is no part of it."""
    ends = [end for name, _, end in _mp4_boxes(stream, file_size) if name in _MP4_MEDIA_BOXES]
    return max(ends, default=file_size + 1)


def _mp4_boxes(stream: BinaryIO, file_size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the outer boxes. ISO/IEC 14496-12, 4.2: size 1 means a 64-bit size follows, 0
    'to the end'."""
    position = 0
    while position < file_size:
        stream.seek(position)
        header = stream.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            size = file_size - position
        yield header[4:8], position, position + size
        position += size


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


def _flv_end(stream: BinaryIO, file_size: int) -> int:
    """Where the last tag ends: eleven bytes, its data, and four bytes of size, which may be absent."""
    stream.seek(5)
    position = int.from_bytes(stream.read(4), "big") + 4
    while position + 11 <= file_size:
        stream.seek(position)
        header = stream.read(4)
        if header[0] & 0x1F not in _FLV_TAGS:
            return position  # no part of the video
        position += 11 + int.from_bytes(header[1:4], "big") + 4
    return position - 4 if position > 13 else file_size + 1


def _gif_end(stream: BinaryIO, file_size: int) -> int:
    """Where the last block ends, by GIF89a; the trailer behind it is often absent."""
    stream.seek(10)
    stream.seek(13 + _gif_colours(stream.read(1)))
    while (kind := stream.read(1)) in (b"!", b","):
        if kind == b"!":
            stream.seek(1, 1)
        else:
            stream.seek(_gif_colours(stream.read(9)[8:]) + 1, 1)
        while (length := stream.read(1)) not in (b"", b"\x00"):
            stream.seek(length[0], 1)
        if not length:
            return file_size + 1
    return stream.tell()


def _gif_colours(flags: bytes) -> int:
    """Bytes of a table of colours, by the flags that announce it."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


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
