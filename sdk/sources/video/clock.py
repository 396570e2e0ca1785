"""Times of a video stream's frames, from the timestamps of its container."""

from __future__ import annotations


class Clock:
    """Seconds since a stream's first frame; they never go back.

    Some containers, such as AVI, store the order of decoding alone, so that the presentation timestamps of
    B-frames go back. As FFmpeg's own players do (``guess_correct_pts`` in libavcodec), those of decoding are
    taken once the others have gone back more often. What still goes back is another beginning, such as of
    recordings that were put one behind the other: it follows a frame after the last one.

    Args:
        tick_s: seconds of one unit of a timestamp.
        step_s: nominal seconds from frame to frame.
    """

    def __init__(self, tick_s: float, step_s: float) -> None:
        self.last_s = 0.0
        self._tick_s = tick_s
        self._step_s = step_s
        self._zero_s: float | None = None  # the time of the first frame, moved by what went back
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._n_pts_back = self._n_dts_back = 0

    def seconds(self, pts: int | None, dts: int | None) -> float | None:
        """The next frame's time by its timestamps; None before the first frame that has any."""
        ticks = self._trusted(pts, dts)
        if ticks is None:
            if self._zero_s is None:
                return None
            self.last_s += self._step_s
            return self.last_s
        now_s = ticks * self._tick_s
        if self._zero_s is None:
            self._zero_s = now_s
        elif now_s - self._zero_s < self.last_s:
            self._zero_s = now_s - self.last_s - self._step_s
        self.last_s = now_s - self._zero_s
        return self.last_s

    def _trusted(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._n_dts_back += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._n_pts_back += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        if pts is None or (dts is not None and self._n_pts_back > self._n_dts_back):
            return dts
        return pts
