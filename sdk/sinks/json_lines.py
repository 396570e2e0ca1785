"""Results as JSON lines, one object per frame."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from sdk.errors import SinkError
from sdk.files import AtomicFile, is_stream
from sdk.host.terminal import printable
from sdk.result import Result
from sdk.sinks.base import Sink, unwritable
from sdk.sinks.record import event_record, record
from sdk.sources import Frame, SourceEvent, SourceState


class JsonLines(Sink):
    """One JSON object a line, a ``Record`` per frame. Every line can be read as soon as it is written.

    Args:
        path: a file, which appears with its first line and replaces the one that was there; a pipe or device,
            written to as it is; ``-``, standard output.
        labels: the bundle's labels, in the order of ``Result.probabilities``.
    """

    def __init__(self, path: str | os.PathLike[str], labels: Sequence[str]) -> None:
        self.path = Path(path)
        self._to_stdout = os.fspath(path) == "-"
        self._name = "standard output" if self._to_stdout else os.fspath(path)
        self._labels = labels
        self._file: AtomicFile | None = None  # None for a pipe, a device and standard output
        self._stream: IO[bytes] | None = None
        self._encoder = msgspec.json.Encoder()
        self._n_whole = 0  # lines, and their bytes: what a full disk leaves
        self._whole_bytes = 0
        self._troubled: set[str] = set()  # sources

    def open(self) -> None:
        try:
            if self._to_stdout:
                self._stream = _standard_output()
            elif is_stream(self.path):
                self._stream = self.path.open("wb", buffering=0)
            else:
                self._file = AtomicFile(self.path)
                self._stream = self._file.create(buffering=0)
        except OSError as error:
            raise unwritable(self._name, error, hint="check the folder and its rights") from None

    def write(self, frame: Frame, result: Result) -> None:
        self._write_line(record(frame, result, self._labels))

    def source_changed(self, event: SourceEvent) -> None:
        """Write a line where a source stalls, is lost or fails, or changes in any way after that."""
        is_lost = event.state is SourceState.CONNECTING and event.reason is not None
        if is_lost or event.state in (SourceState.STALLED, SourceState.FAILED):
            self._troubled.add(event.source)
        if event.source in self._troubled:
            self._write_line(event_record(event))

    def _write_line(self, content: msgspec.Struct) -> None:
        assert self._stream is not None, "open the sink first"
        text = self._encoder.encode(content).decode()
        line = printable(text).encode() + b"\n"  # JSON lets some control characters stand raw
        try:
            _write_whole(self._stream, line)
            if self._file is not None:
                self._file.publish()
        except BrokenPipeError:
            if self._to_stdout:  # or Python's exit complains as well
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SinkError(f"{self._name}: its reader is gone") from None
        except OSError as error:
            raise self._unwritable(error) from None
        self._n_whole += 1
        self._whole_bytes += len(line)

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None or self._to_stdout:
            return
        if self._file is None:
            stream.close()
        elif self._n_whole == 0:
            self._file.discard()
        else:
            try:
                stream.truncate(self._whole_bytes)
                self._file.finish()
            except OSError as error:
                self._file.discard()
                raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> SinkError:
        is_kept = self._file is not None and self._n_whole > 0 and self.path.exists()
        return unwritable(
            self._name, error, hint=f"the {self._n_whole} lines before are kept" if is_kept else None
        )


def _standard_output() -> IO[bytes]:
    """Standard output as bytes; Python has none where the process was started with it closed."""
    if sys.stdout is None or sys.stdout.closed:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdout.buffer


def _write_whole(stream: IO[bytes], line: bytes) -> None:
    """An unbuffered stream may take less than it is given: what a nearly full disk still holds."""
    left = memoryview(line)
    while left:
        left = left[stream.write(left) or 0 :]
    if isinstance(stream, io.BufferedWriter):
        stream.flush()
