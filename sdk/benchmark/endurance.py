"""Resident memory of the runtime: by the size of the bank, and through a long soak.

Both are measured in child processes, since memory that a process has freed would hide what it leaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.benchmark.children import Child, NotMeasured
from sdk.benchmark.report import Memory, Soak
from sdk.benchmark.subject import Subject, Synthetic, natural_frame, with_bank_of
from sdk.benchmark.turns import Bare
from sdk.bundle import Bundle
from sdk.host.children import python_module
from sdk.loop import run
from sdk.purifier import Purifier
from sdk.result import Result
from sdk.sources import Frame

SMALL_BANK, LARGE_BANK = 1, 8
RESIDENT_FRAMES = 50
TENTHS = 10
MIN_FRAMES = 200  # of a soak: twenty in each tenth, five of them bare
BARE_EVERY = 4  # frames of a soak; the bare engines tell a slower machine from a slower runtime
_STATM = Path("/proc/self/statm")


def memory(subject: Subject) -> Memory:
    """Resident memory with 8 purifiers to draw from and with 1, each in a fresh process.

    Raises:
        NotMeasured: this system doesn't report it.
    """
    _require_statm()
    small, large = (_resident(subject, purifiers) for purifiers in (SMALL_BANK, LARGE_BANK))
    added = with_bank_of(subject.bundle, LARGE_BANK).manifest.purifiers[SMALL_BANK:]
    files = [subject.bundle.path(engine.onnx[subject.backend.precision]) for engine in added]
    return Memory(
        small_purifiers=SMALL_BANK,
        small_bytes=small,
        large_purifiers=LARGE_BANK,
        large_bytes=large,
        added_sessions=len(added),
        added_files_bytes=sum(file.stat().st_size for file in files),
    )


def soak(subject: Subject, frames: int, on_tenth: Callable[[], None]) -> Soak:
    """A long run of the loop over a synthetic source; ``on_tenth`` is called after each tenth of it.

    Raises:
        NotMeasured: this system doesn't report its memory.
    """
    _require_statm()
    with Child("soak", _command("soak", subject, len(subject.bundle.manifest.purifiers), frames)) as child:
        for _ in range(TENTHS):
            child.hear()
            on_tenth()
        return msgspec.json.decode(child.hear(), type=Soak)


def resident_bytes(
    bundle: Bundle, backend: OnnxRuntimeBackend, frame_size: tuple[int, int], frames: int
) -> Iterator[int]:
    """In a fresh process: its resident memory after ``frames`` frames."""
    purifier, frame = Purifier(bundle, backend), natural_frame(*frame_size)
    for _ in range(frames):
        purifier(frame)
    yield resident_bytes_now()


def endure(
    bundle: Bundle, backend: OnnxRuntimeBackend, frame_size: tuple[int, int], frames: int
) -> Iterator[int | Soak]:
    """In a fresh process: run ``frames`` frames; the resident memory after each tenth, then the verdict."""
    purifier = Purifier(bundle, backend)
    subject = Subject(bundle, backend, backend.precision, natural_frame(*frame_size), votes=1, frames=frames)
    bare = Bare(subject, votes=1)
    tenths = [_Tenth(frames // TENTHS) for _ in range(TENTHS)]
    source = Synthetic(*frame_size, frames // TENTHS)
    for tenth in tenths:
        run(purifier, source, on_result=partial(tenth.add, bare))
        tenth.resident_bytes = resident_bytes_now()
        yield tenth.resident_bytes
    first, *rest = tenths
    yield Soak(
        frames=frames // TENTHS * TENTHS,
        growth_bytes=max(tenth.resident_bytes for tenth in rest) - first.resident_bytes,
        ours_ms=tuple(float(np.median(tenth.ours_ms)) for tenth in tenths),
        bare_ms=tuple(float(np.median(tenth.bare_ms)) for tenth in tenths),
    )


class _Tenth:
    """A part of the soak; its arrays are filled beforehand, so that they don't grow with it."""

    def __init__(self, frames: int) -> None:
        self.ours_ms: npt.NDArray[np.float64] = np.full(frames, np.nan)
        self.bare_ms: npt.NDArray[np.float64] = np.full(-(-frames // BARE_EVERY), np.nan)
        self.resident_bytes = 0

    def add(self, bare: Bare, frame: Frame, result: Result) -> None:
        self.ours_ms[frame.index] = result.timings.total_ms
        if frame.index % BARE_EVERY == 0:
            self.bare_ms[frame.index // BARE_EVERY] = bare()["total"]


def _resident(subject: Subject, purifiers: int) -> int:
    with Child("resident", _command("resident", subject, purifiers, RESIDENT_FRAMES)) as child:
        return int(child.hear())


def _command(what: str, subject: Subject, purifiers: int, frames: int) -> list[str]:
    """Command that runs ``sdk.benchmark.__main__``."""
    numbers = (*subject.frame_size, purifiers, frames)
    precision = subject.backend.precision
    return python_module("sdk.benchmark", what, str(subject.bundle.folder), precision, *map(str, numbers))


def _require_statm() -> None:
    if not _STATM.exists():
        raise NotMeasured(f"resident memory is read from {_STATM}, which this system lacks")


def resident_bytes_now() -> int:
    """This process's resident memory."""
    pages = int(_STATM.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
