"""Numeric arrays from a MATLAB 5 file, as SVHN is published in.

``scipy.io.loadmat`` would do, but damaged files crash its compiled parser (measured: bus errors), and a crash
is no error message. The format: 'MAT-File Format', MathWorks, chapter 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

_HEADER_BYTES = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED_AS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_COMPLEX = 0x800


def read_arrays(data: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those arrays of the file ``data`` that are called ``names``, in the type they are stored in.

    Raises:
        ValueError: no little-endian MATLAB 5 file, a damaged one, or an array that isn't a real numeric one.
    """
    if len(data) < _HEADER_BYTES or data[124:128] != b"\x00\x01IM":
        raise ValueError("not a little-endian MATLAB 5 file")
    arrays = {}
    for kind, body in _elements(memoryview(data)[_HEADER_BYTES:]):
        if kind == _COMPRESSED:
            kind, body = next(_elements(memoryview(_inflated(body))), (0, body))
        if kind != _MATRIX:
            raise ValueError(f"expected arrays, found an element of type {kind}")
        name, array = _matrix(body, names)
        if array is not None:
            arrays[name] = array
    return arrays


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(type, body) of each element: an 8-byte tag with the body's size, the body, padding to 8 bytes."""
    position = 0
    while position < len(data):
        if len(data) - position < 8:
            raise ValueError("an element's tag is cut short")
        kind, size = struct.unpack_from("<II", data, position)
        start, end = position + 8, position + 8 + size
        if kind > 0xFFFF:  # the small form: size and type in one word, at most 4 bytes of body in the other
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = position + 4, position + 4 + min(size, 4)
            position += 8
        else:
            position = end if kind == _COMPRESSED else end + -size % 8
        if end > len(data):
            raise ValueError(f"an element of {size} bytes is cut short")
        yield kind, data[start:end]


def _inflated(body: memoryview) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error as error:
        raise ValueError(f"its compressed data is damaged: {error}") from None


def _matrix(body: memoryview, names: Collection[str]) -> tuple[str, np.ndarray | None]:
    """Name and array of a matrix element; no array if the name is not asked for."""
    parts = _elements(body)
    flags, shape, name = (_part(parts, kind) for kind in (_UINT32, _INT32, _INT8))
    label = bytes(name).decode("latin-1")
    if label not in names:
        return label, None
    kind, values = next(parts, (0, body))
    if kind not in _STORED_AS or len(flags) < 4 or struct.unpack_from("<I", flags)[0] & _COMPLEX:
        raise ValueError(f"{label}: not a real numeric array")
    dtype = np.dtype("<" + _STORED_AS[kind])
    sizes = [int(size) for size in np.frombuffer(shape, "<i4")] if len(shape) % 4 == 0 else []
    if not sizes or min(sizes) < 0 or _product(sizes) * dtype.itemsize != len(values):
        raise ValueError(f"{label}: {len(values)} bytes of {dtype.name} don't make an array of shape {sizes}")
    return label, np.frombuffer(values, dtype).reshape(sizes, order="F")


def _part(parts: Iterator[tuple[int, memoryview]], expected: int) -> memoryview:
    kind, body = next(parts, (0, memoryview(b"")))
    if kind != expected:
        raise ValueError(f"an array's header is damaged: expected a part of type {expected}, found {kind}")
    return body


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
