"""Recorded video: every frame of a file, of a pipe, or of a file on a web server, by PyAV or else OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdk.arrays import Pixels
from sdk.sources.content import Kind, NativeName, shown
from sdk.sources.source import Source, in_background, sane_rate
from sdk.sources.video import opencv, pyav, truncation
from sdk.sources.video.recorded import RecordedVideo, unreadable


class Video(RecordedVideo):
    """A recorded video, read by PyAV."""

    def __init__(
        self, name: str, decoder: pyav.Decoder, path: Path | None, *, remote: bool, opened: NativeName | None
    ) -> None:
        super().__init__(name, path, remote=remote)
        self.total = decoder.total
        self.fps = sane_rate(decoder.fps)
        self._decoder = decoder
        self._opened = opened
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._decoder.close()
            if self._opened is not None:
                self._opened.close()

    def _pictures(self) -> Iterator[tuple[Pixels, float | None]]:
        return self._decoder.pictures()

    def _is_open(self) -> bool:
        return not self._closed

    def _n_lost(self, n_read: int) -> int:
        return self._decoder.n_lost

    def _is_cut_short(self, n_read: int) -> bool:
        if self._remote:
            return n_read == 0 or self._decoder.ended_early()
        if self._path is None:
            return False
        by_index = self._decoder.is_cut_short(self._path.stat().st_size)
        return truncation.is_cut_short(self._path) if by_index is None else by_index


def open_video(path: Path, kind: Kind = Kind.VIDEO) -> Source:
    """Open a video file or a pipe.

    Raises:
        SourceError: it is no video that can be read.
    """
    name = shown(path)
    is_pipe = kind is Kind.PIPE
    try:
        native = in_background(lambda: NativeName(path))
        if pyav.av is None:
            return opencv.open_file(name, native, None if is_pipe else path)
        try:
            decoder = in_background(lambda: pyav.Decoder(native.name, name))
        except BaseException:
            native.close()
            raise
    except pyav.ERRORS as error:
        raise unreadable(path, error, is_pipe=is_pipe) from None
    return Video(name, decoder, None if is_pipe else path, remote=False, opened=native)
