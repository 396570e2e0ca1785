"""Read a NumPy archive of unknown origin from bytes, in bounded memory and without unpickling."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_BYTES = 256 << 20  # unpacked, all arrays together
MAX_ARRAYS = 4096

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays in ``content`` by name.

    Raises:
        ValueError: it is no such archive, an array holds objects, or it would unpack to too much.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > MAX_BYTES or len(members) > MAX_ARRAYS:
                raise ValueError(f"it unpacks to {size:,} bytes in {len(members)} arrays")
            return {
                member.filename.removesuffix(".npy"): _read(archive.open(member), member.file_size)
                for member in members
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    except (NotImplementedError, MemoryError, TypeError, KeyError, SyntaxError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None


def _read(stream: Any, size: int) -> npt.NDArray[Any]:
    """One array, whose header may not claim more than the ``size`` bytes that follow."""
    with stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"format {version[0]}.{version[1]} isn't known")
        shape, is_fortran, dtype = _HEADERS[version](stream)
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or dtype.itemsize == 0 or not 0 <= n_bytes <= size:
            raise ValueError(f"an array of shape {shape} and type {dtype} isn't read")
        data = stream.read(n_bytes)
    if len(data) != n_bytes:
        raise ValueError("an array is cut short")
    flat = np.frombuffer(bytearray(data), dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")
