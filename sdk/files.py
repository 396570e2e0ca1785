"""A file that has another name until it is complete."""

from __future__ import annotations

import os
from pathlib import Path

from sdk.errors import SinkError


class Unfinished:
    """The file that will be ``path``: where that is a link, the file that it points to.

    Attributes:
        path: as the user named it.
        part: where it is written meanwhile: in the same folder, so that renaming suffices, and with the same
            suffix, which OpenCV goes by.  What a crash leaves there, the next run writes over.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._final = Path(os.path.realpath(path))
        self.part = self._final.parent / f"{self._final.stem}.edge-purify-part{self._final.suffix}"

    def create(self) -> None:
        """Begin it, empty.

        Raises:
            SinkError: it can't be written there.
        """
        try:
            if self._final.is_dir():
                raise SinkError(f"{self.path}: is a folder, expected a file's name")
            if self._final.exists() and not self._final.is_file():
                raise SinkError(f"{self.path}: is a device or a pipe, expected a file's name")
            self.part.open("wb").close()
        except OSError as error:
            raise self.unwritable(error, "; check the folder and its rights") from None

    def finish(self) -> None:
        """Give it its name; what has that name is replaced.

        Raises:
            SinkError: that can't be done; the part is removed.
        """
        try:
            self.part.replace(self._final)
        except OSError as error:
            self.discard()
            raise self.unwritable(error) from None

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)

    def unwritable(self, error: OSError, more: str = "") -> SinkError:
        return SinkError(f"{self.path}: can't be written: {error.strerror}{more}")
