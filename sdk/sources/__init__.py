"""Sources of frames: a camera, a stream, a video, a picture, a folder, glob or list of pictures.

    with open_source("clip.mp4") as source:
        for frame in source:
            purifier(frame.image)

``open_source`` has opened what it returns, so a wrong name is an error before any work begins. A recorded
source (``live`` false) gives every frame; a live one the newest, see ``sdk.sources.live``.
"""

from sdk.sources.open import open_source, open_sources
from sdk.sources.roi import Roi
from sdk.sources.source import Frame, Source
from sdk.sources.state import SourceEvent, SourceState
from sdk.sources.stream import Trust

__all__ = ["Frame", "Roi", "Source", "SourceEvent", "SourceState", "Trust", "open_source", "open_sources"]
