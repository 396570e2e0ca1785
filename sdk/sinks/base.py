"""What a sink is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

from sdk.result import Result
from sdk.sources import Frame

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
