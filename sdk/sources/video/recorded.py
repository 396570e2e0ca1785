"""Base of the recorded videos: every frame with its time, then whether the video was whole."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

from sdk.arrays import Pixels
from sdk.errors import SourceError
from sdk.sources.content import shown
from sdk.sources.source import Frame, Source
from sdk.sources.state import SourceState
from sdk.sources.video import truncation

log = logging.getLogger("sdk.sources")

MAX_SHARE_LOST = 0.05  # a stretch that is damaged loses more; a packet now and then is worth a warning


class RecordedVideo(Source):
    """A recorded video: every frame, then an error if much of it is missing.

    Args:
        name: what messages call it.
        path: the file, for what its size and structure say; None where it is elsewhere, or a pipe.
        remote: whether it comes over a network.
    """

    def __init__(self, name: str, path: Path | None, *, remote: bool) -> None:
        self.name = name
        self.files = () if path is None else (path,)
        self._path = path
        self._remote = remote

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        self.report(SourceState.LIVE)
        for image, time_s in self._pictures():
            yield Frame(image, index, self.name, self._time_s(index, time_s))
            index += 1
        if self._is_open():  # else closed by another thread: not the video's end
            self._require_whole(index)

    @abstractmethod
    def _pictures(self) -> Iterator[tuple[Pixels, float | None]]:
        """Every picture with its time in seconds, None where that isn't known."""

    @abstractmethod
    def _is_open(self) -> bool: ...

    @abstractmethod
    def _n_lost(self, n_read: int) -> int:
        """Frames that the decoder, or else the container's structure, says are missing."""

    @abstractmethod
    def _is_cut_short(self, n_read: int) -> bool:
        """Whether the video goes on behind the end of what could be read."""

    def _time_s(self, index: int, time_s: float | None) -> float | None:
        if time_s is not None:
            return time_s
        return index / self.fps if self.fps else None

    def _require_whole(self, n_read: int) -> None:
        of_total = f" of {self.total}" if self.total and self.total > n_read else ""
        if self._is_cut_short(n_read):
            raise SourceError(
                f"{self.name}: ended after {n_read}{of_total} frames: " + self._cut_reason(),
                hint=self._cut_hint(),
            )
        if n_read == 0 and self._path is None and not self._remote:
            raise SourceError(
                f"{self.name}: no frame comes through this pipe",
                hint="an MP4 with its index at its end can't; send Matroska or MPEG-TS, or give the file",
            )
        if n_read == 0:
            raise SourceError(
                f"{self.name}: no frame in it can be read: the file is damaged", hint="get it again"
            )
        n_lost = self._n_lost(n_read)
        if n_lost == 0:
            return
        of_total = of_total or f" of {n_read + n_lost}"
        if n_lost > MAX_SHARE_LOST * (n_read + n_lost):
            raise SourceError(
                f"{self.name}: only {n_read}{of_total} frames can be read: the file is damaged",
                hint="get it again",
            )
        log.warning("%s: %d%s frames can be read, the others are damaged", self.name, n_read, of_total)

    def _cut_reason(self) -> str:
        if self._remote:
            return "the connection was lost, or the file is damaged"
        return "the file is cut short"

    def _cut_hint(self) -> str:
        return "check the server, or download the file first" if self._remote else "get it again"


def unreadable(path: Path, error: Exception | None, *, is_pipe: bool) -> SourceError:
    """Why nothing can open a file or pipe."""
    name = shown(path)
    if isinstance(error, PermissionError | FileNotFoundError):
        return SourceError(f"{name}: can't be read: {error.strerror}")
    if is_pipe:
        return SourceError(
            f"{name}: no video comes through this pipe", hint="send Matroska, MPEG-TS or another stream"
        )
    if truncation.is_cut_short(path) or truncation.counts_frames(path):
        return SourceError(
            f"{name}: a damaged video, nothing in it can be read: the file is cut short", hint="get it again"
        )
    return SourceError(
        f"{name}: neither a video nor a picture that can be read here", hint="convert it to MP4, AVI or PNG"
    )
