"""Interface that each sink implements: open, write every frame with its result, close."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from sdk.errors import SinkError
from sdk.files import NotAFile
from sdk.result import Result
from sdk.sources import Frame, SourceEvent

_Self = TypeVar("_Self", bound="Sink")


class Sink(ABC):
    """Takes every frame with its Result; a context manager.

    Attributes:
        on_main_thread: whether ``write`` must run on the program's main thread.
        done: True once it wants no more, such as a window that the user closed.
    """

    on_main_thread = False
    done = False

    def open(self) -> None:  # noqa: B027 - not every sink holds something open
        """Get ready.

        Raises:
            SinkError: it can't be written.
        """

    @abstractmethod
    def write(self, frame: Frame, result: Result) -> None:
        """Write one frame and its result.

        Raises:
            SinkError: it can't be written any more.
        """

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        """Write one frame and the results of all its regions: by default, one ``write`` for each.

        Args:
            frame: with ``frame.rois`` the regions, or empty where the whole picture or ``frame.roi`` is one.
            results: in the order of ``frame.rois``; just one if that is empty.

        Raises:
            SinkError: it can't be written any more.
        """
        for result in results:
            self.write(frame if result.region is None else replace(frame, roi=result.region, rois=()), result)

    def source_changed(self, event: SourceEvent) -> None:  # noqa: B027
        """Take note that a source is live, stalled, ended or failed; on the thread that writes.

        Raises:
            SinkError: it can't be written any more.
        """

    def close(self) -> None:  # noqa: B027
        """Complete what was written, or remove it if there is no frame in it; closing twice is harmless.

        Raises:
            SinkError: what was written is not complete.
        """

    def __enter__(self: _Self) -> _Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unwritable(path: str | os.PathLike[str], error: OSError, *, hint: str | None = None) -> SinkError:
    """The SinkError for an ``OSError`` that was met while writing ``path``."""
    if isinstance(error, NotAFile):
        return SinkError(f"{os.fspath(path)}: {error.strerror}")
    return SinkError(f"{os.fspath(path)}: can't be written: {error.strerror or error}", hint=hint)
