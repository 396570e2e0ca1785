"""Sources of frames: a camera, a stream, a video, a picture, a folder, glob or list of pictures.

    with open_source("clip.mp4") as source:
        for frame in source:
            purifier(frame.image)

``open_source`` has opened what it returns, so a wrong name is an error before any work begins. A recorded
source (``live`` false) gives every frame; a live one the newest, see ``sdk.sources.live``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdk.sources.roi import Roi
from sdk.sources.source import Frame, Source
from sdk.sources.state import SourceEvent, SourceState
from sdk.sources.stream import Trust

if TYPE_CHECKING:
    from sdk.sources.open import open_source, open_sources

__all__ = ["Frame", "Roi", "Source", "SourceEvent", "SourceState", "Trust", "open_source", "open_sources"]


def __getattr__(name: str) -> object:
    if name in ("open_source", "open_sources"):  # they load the readers, which a Purifier alone doesn't need
        from sdk.sources import open as opening

        return getattr(opening, name)
    raise AttributeError(f"module 'sdk.sources' has no attribute {name!r}")
