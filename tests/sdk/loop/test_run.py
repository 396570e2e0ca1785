from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.errors import BackendError, SinkError, SourceError
from sdk.loop import QUEUE_LENGTH, run
from sdk.meter import Durations, Meter
from sdk.purifier import Purifier
from sdk.result import Result
from sdk.sinks import Sink
from sdk.sources import Frame, Source
from tests.sdk.conftest import DEADLINE_S, make_frame, make_result


class Frames(Source):
    """``n_frames`` frames, and then an error, if there is one."""

    def __init__(
        self, n_frames: int, error: Exception | None = None, *, live: bool = False, step: int = 1
    ) -> None:
        self.name = "frames"
        self.live = live
        self.n_given = 0
        self.is_closed = False
        self._indices = range(0, step * n_frames, step)
        self._error = error

    def __iter__(self) -> Iterator[Frame]:
        for index in self._indices:
            self.n_given += 1
            yield make_frame(index)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.is_closed = True


class Notebook(Sink):
    """Notes the indices it gets; fails at ``fail_at``."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.written: list[int] = []
        self.threads: set[str] = set()
        self.state = "new"
        self._fail_at = fail_at

    def open(self) -> None:
        self.state = "open"

    def write(self, frame: Frame, result: Result) -> None:
        assert self.state == "open"
        if frame.index == self._fail_at:
            raise SinkError("disk full")
        self.threads.add(threading.current_thread().name)
        self.written.append(frame.index)

    def close(self) -> None:
        self.state = "closed"


def purify(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
    return make_result()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_every_frame_is_purified_and_written_in_order(tiny_bundle: Path) -> None:
    source, first, second = Frames(60), Notebook(), Notebook()
    seen: list[int | None] = []
    with Purifier.load(tiny_bundle, votes=3) as purifier:
        summary = run(
            purifier, source, [first, second], on_result=lambda frame, result: seen.append(result.frame_index)
        )
    assert first.written == second.written == seen == list(range(60))
    assert source.is_closed
    assert first.state == second.state == "closed"
    assert (summary.frames, summary.skipped, summary.missed, summary.interrupted) == (60, 0, 0, False)
    assert summary.labels == {"blue": 60}
    assert set(summary.purifiers) == {"purifier-00", "purifier-01", "purifier-02"}
    assert sum(summary.purifiers.values()) == sum(summary.classifiers.values()) == 3 * 60
    assert list(summary.stages) == ["capture", "preprocess", "draw", "purify", "classify", "total", "write"]
    for times in summary.stages.values():
        assert 0 < times.p50_ms <= times.p90_ms <= times.p99_ms
    assert summary.frames_per_s == pytest.approx(60 / summary.seconds)


def test_max_frames_ends_the_run() -> None:
    source, sink = Frames(1000), Notebook()
    assert run(purify, source, [sink], max_frames=7).frames == 7
    assert sink.written == list(range(7))
    assert source.n_given <= 7 + QUEUE_LENGTH + 1


def test_slow_sink_holds_the_source_back() -> None:
    full = threading.Event()
    most = 2 * QUEUE_LENGTH + 3  # two full queues, and a frame in the hands of each stage

    class Counted(Frames):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                lead = self.n_given - len(sink.written)
                assert lead <= most
                if lead == most:
                    full.set()
                yield frame

    class Slow(Notebook):
        def write(self, frame: Frame, result: Result) -> None:
            assert full.wait(DEADLINE_S), "the queues never filled"
            super().write(frame, result)

    sink = Slow()
    run(purify, Counted(50), [sink])
    assert sink.written == list(range(50))


def test_damaged_source_keeps_the_frames_before() -> None:
    source, sink, meter = (
        Frames(20, SourceError("clip.mp4: ended after 20 of 40 frames")),
        Notebook(),
        Meter(),
    )
    with pytest.raises(SourceError, match="ended after 20 of 40"):
        run(purify, source, [sink], meter=meter)
    assert sink.written == list(range(20))
    assert sink.state == "closed"
    assert source.is_closed
    assert meter.summary().frames == 20


def test_failing_sink_ends_the_run_and_closes_the_others() -> None:
    source, bad, good = Frames(10_000), Notebook(fail_at=5), Notebook()
    with pytest.raises(SinkError, match="disk full"):
        run(purify, source, [good, bad])
    assert bad.written == list(range(5))
    assert good.written[:6] == list(range(6)), "the frame that the other failed at, and what was purified"
    assert good.state == bad.state == "closed"
    assert source.is_closed
    assert source.n_given < 100, "the run must stop early"


def test_sink_that_fails_on_the_last_frame_is_heard() -> None:
    with pytest.raises(SinkError, match="disk full"):
        run(purify, Frames(6), [Notebook(fail_at=5)])


def test_sink_that_cannot_open_costs_no_frame() -> None:
    class Shut(Notebook):
        def open(self) -> None:
            raise SinkError("no such folder")

    source, other = Frames(10), Notebook()
    with pytest.raises(SinkError, match="no such folder"):
        run(purify, source, [other, Shut()])
    assert source.n_given == 0
    assert source.is_closed
    assert other.state == "closed"


def test_engine_error_keeps_the_frames_before() -> None:
    def fail_at_5(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
        if frame_index == 5:
            raise BackendError("engine purifier-00 failed")
        return make_result()

    sink = Notebook()
    with pytest.raises(BackendError, match="purifier-00"):
        run(fail_at_5, Frames(10_000), [sink])
    assert sink.written == list(range(5))


def test_skipped_frames_are_counted_and_have_no_label() -> None:
    def skip_odd(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
        return make_result(None if frame_index and frame_index % 2 else "red")

    summary = run(skip_odd, Frames(10))
    assert (summary.frames, summary.skipped, summary.labels) == (10, 5, {"red": 5})


def test_ctrl_c_ends_cleanly_with_everything_written() -> None:
    def interrupt(frame: Frame, result: Result) -> None:
        if frame.index == 4:
            raise KeyboardInterrupt

    source, sink = Frames(10_000), Notebook()
    summary = run(purify, source, [sink], on_result=interrupt)
    assert (summary.interrupted, summary.frames) == (True, 5)
    assert sink.written == list(range(5))
    assert sink.state == "closed"
    assert source.is_closed


def test_live_source_is_not_read_ahead_and_its_gaps_are_counted() -> None:
    source = Frames(10, live=True, step=3)
    leads = []
    summary = run(
        purify, source, on_result=lambda frame, result: leads.append(source.n_given - frame.index // 3)
    )
    assert leads == [1] * 10
    assert (summary.frames, summary.missed) == (10, 18)


def test_window_runs_on_the_main_thread_and_can_end_the_run() -> None:
    class Screen(Notebook):
        on_main_thread = True

        def write(self, frame: Frame, result: Result) -> None:
            super().write(frame, result)
            self.done = frame.index == 3

    screen, file = Screen(), Notebook()
    assert run(purify, Frames(100), [file, screen]).frames == 4
    assert screen.threads == {threading.current_thread().name}
    assert file.threads == {"write"}
    assert file.written == list(range(4))


def test_seeded_run_says_so() -> None:
    assert run(lambda *a, **k: make_result(seeded=True), Frames(2)).seeded
    assert not run(purify, Frames(2)).seeded


def test_memory_does_not_grow_with_the_frames() -> None:
    grown = []

    def note(frame: Frame, result: Result) -> None:
        if frame.index in (500, 7999):
            grown.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        run(purify, Frames(8000), [_Forgetful()], on_result=note)
    finally:
        tracemalloc.stop()
    assert grown[1] - grown[0] < 200_000, "25 bytes a frame would be a list of figures"


class _Forgetful(Sink):
    def write(self, frame: Frame, result: Result) -> None:
        pass


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=300), st.sampled_from([50, 90, 99]))
def test_percentiles_agree_with_numpy(milliseconds: list[float], percent: int) -> None:
    durations = Durations()
    for duration in milliseconds:
        durations.add(duration)
    exact = np.percentile(milliseconds, percent, method="inverted_cdf")
    assert durations.percentile(percent) == pytest.approx(exact, rel=0.006)


@pytest.mark.parametrize(("milliseconds", "shown"), [(0.0, 1e-4), (1e9, 6.4e5)])
def test_durations_out_of_range_fall_into_the_outermost_bins(milliseconds: float, shown: float) -> None:
    durations = Durations()
    durations.add(milliseconds)
    assert durations.percentile(50) == pytest.approx(shown, rel=0.02)
