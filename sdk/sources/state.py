"""States of a source, reported as events to an observer.

    source.observe(lambda event: log.info("%s: %s", event.source, event.state.value))

A live source is connecting until its first frame, live while frames come, stalled when they stop, connecting
again when the connection is lost. A recorded source is live. The loop reports the end of both, ended or
failed, behind their last frame.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class SourceState(enum.Enum):
    """What a source is doing."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """A source's change of state.

    Attributes:
        source: the source's name; a URL is reduced to scheme and host.
        state: the new state.
        reason: why, for stalled, failed and a lost connection; None otherwise.
        time_s: when, in seconds since the epoch.
    """

    source: str
    state: SourceState
    reason: str | None = None
    time_s: float = field(default_factory=time.time)


Observer = Callable[[SourceEvent], object]
"""Called on the thread where the change was noticed; it must return quickly."""
