"""Several sources over one purifier: fair turns, separate figures, and one that fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk import Purifier, Roi
from sdk.errors import SourceError, UsageError
from sdk.loop import distinct, run
from sdk.meter import Meter
from sdk.result import Result
from sdk.sinks import Sink
from sdk.sources import Frame, Source, SourceEvent, SourceState, open_source
from sdk.sources.live import Live
from tests.sdk.conftest import DEADLINE_S, make_frame, make_result, wait_until, write_video


def purify(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
    return make_result(str(source))


class Given(Source):
    """Frames as fast as they are taken, under the source's name, and then an error, if there is one."""

    def __init__(self, name: str, n_frames: int, error: Exception | None = None) -> None:
        self.name = name
        self.is_closed = False
        self._n_frames = n_frames
        self._error = error

    def __iter__(self) -> Iterator[Frame]:
        self.report(SourceState.LIVE)
        for index in range(self._n_frames):
            yield Frame(make_frame().image, index, self.name)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.is_closed = True


class Notebook(Sink):
    def __init__(self) -> None:
        self.written: list[tuple[int, str, int]] = []
        self.events: list[tuple[str, SourceState]] = []
        self.regions: list[int] = []

    def write(self, frame: Frame, result: Result) -> None:
        self.written.append((frame.source_index, frame.source, frame.index))

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        self.regions.append(len(results))
        super().write_regions(frame, results)

    def source_changed(self, event: SourceEvent) -> None:
        self.events.append((event.source, event.state))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before, "the threads' end")


def test_each_source_is_read_to_its_end_and_counted() -> None:
    sources, sink = [Given("a", 30), Given("b", 10), Given("a", 20)], Notebook()
    summary = run(purify, sources, [sink])
    for number, (name, n_frames) in enumerate((("a", 30), ("b", 10), ("a #2", 20))):
        own = [(source, index) for i, source, index in sink.written if i == number]
        assert own == [(name, index) for index in range(n_frames)], "every frame, in order, under its name"
        assert summary.sources[name].frames == n_frames
        assert summary.sources[name].state == "ended"
        assert summary.sources[name].labels == {name: n_frames}
    assert (summary.frames, summary.missed) == (60, 0)
    assert all(source.is_closed for source in sources)


def test_sources_take_turns() -> None:
    """Each recorded source always has a frame ready, so their frames alternate but for the start."""
    ready = threading.Barrier(3)

    class Waiting(Given):
        def __iter__(self) -> Iterator[Frame]:
            ready.wait(DEADLINE_S)
            yield from super().__iter__()

    seen: list[str] = []

    def slow(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
        threading.Event().wait(0.002)  # the readers have time to fill their queues
        seen.append(str(source))
        return make_result()

    run(slow, [Waiting(name, 60) for name in "abc"], max_frames=90)
    counts = [seen.count(name) for name in "abc"]
    assert max(counts) - min(counts) <= 6, counts


def test_source_that_gives_nothing_holds_nobody_up() -> None:
    silent = threading.Event()

    class Silent(Source):
        name, live = "silent", True

        def __iter__(self) -> Iterator[Frame]:
            silent.wait(DEADLINE_S)
            yield from ()

        def close(self) -> None:
            silent.set()

    summary = run(purify, [Silent(), Given("a", 50)], max_frames=50)
    assert summary.sources["a"].frames == 50
    assert summary.sources["silent"].frames == 0


def test_live_source_gives_its_newest_frame_beside_others() -> None:
    class Camera:
        """Frames as fast as they are read."""

        def __init__(self) -> None:
            self.n = 0

        def get(self, prop: int) -> float:
            return 30.0

        def read(self) -> tuple[bool, np.ndarray | None]:
            threading.Event().wait(0.001)
            self.n += 1
            return True, np.full((4, 4, 3), self.n % 256, np.uint8)

        def release(self) -> None:
            pass

    summary = run(purify, [Live("camera 0", Camera()), Given("file", 40)], max_frames=60)
    assert summary.sources["file"].frames >= 25, "a live source takes its turns and no more"
    assert summary.sources["camera 0"].frames >= 10


@pytest.mark.parametrize("policy", ["end", "keep"])
def test_one_that_fails(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    sources = [Given("bad", 3, SourceError("bad: lost", hint="look")), Given("good", 4000)]
    sink, meter = Notebook(), Meter()
    if policy == "end":
        with pytest.raises(SourceError, match="bad: lost; look"):
            run(purify, sources, [sink], meter=meter)
        assert meter.summary().sources["good"].frames < 4000
    else:
        run(purify, sources, [sink], meter=meter, on_source_error="keep")
        assert meter.summary().sources["good"].frames == 4000
        assert "bad: failed, the others go on: bad: lost" in caplog.text
    figures = meter.summary().sources["bad"]
    assert (figures.frames, figures.state, figures.reason) == (3, "failed", "bad: lost")
    assert sink.events.count(("bad", SourceState.FAILED)) == 1
    assert all(source.is_closed for source in sources)


def test_all_that_fail_are_an_error() -> None:
    sources = [Given(name, 2, SourceError(f"{name}: lost")) for name in "ab"]
    with pytest.raises(SourceError, match="lost"):
        run(purify, sources, on_source_error="keep")


def test_a_defect_of_ours_is_not_kept_quiet() -> None:
    with pytest.raises(ZeroDivisionError):
        run(purify, [Given("a", 2, ZeroDivisionError()), Given("b", 2)], on_source_error="keep")


def test_impossible_runs() -> None:
    with pytest.raises(UsageError, match="expected at least one source, got none"):
        run(purify, [])
    with pytest.raises(UsageError, match="on_source_error: expected end or keep, got 'stop'"):
        run(purify, Given("a", 1), on_source_error="stop")  # type: ignore[arg-type]


def test_names_are_made_distinct() -> None:
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a #2", "a #3"]


# --- events


def test_events_reach_the_sinks_in_order() -> None:
    sink = Notebook()
    run(purify, Given("a", 3), [sink])
    assert sink.events == [("a", SourceState.LIVE), ("a", SourceState.ENDED)]


def test_live_source_that_stalls_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sdk.sources.live.STALLED_S", 0.05)
    monkeypatch.setattr("sdk.sources.live._POLL_S", 0.01)
    caplog.set_level(logging.INFO)
    sink = Notebook()

    class Camera:
        """A frame, then none until the stall was noticed, then one more and the end."""

        n_read = 0

        def get(self, prop: int) -> float:
            return 100.0

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.n_read += 1
            if self.n_read == 2:
                wait_until(lambda: ("cam", SourceState.STALLED) in sink.events, "the stall")
            return self.n_read < 3, np.zeros((4, 4, 3), np.uint8)

        def release(self) -> None:
            pass

    with pytest.raises(SourceError, match="cam: lost after 2 frames"):
        run(purify, Live("cam", Camera()), [sink])
    states = [state for _, state in sink.events]
    assert states == [SourceState.LIVE, SourceState.STALLED, SourceState.LIVE, SourceState.FAILED]
    assert "cam: stalled, no frame for 0." in caplog.text
    assert "cam: live again after 0 s" in caplog.text


# --- regions and pictures that can't be read


def test_frame_with_several_regions_gives_a_result_for_each(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40] = (30, 40, 220)
    picture[:, 40:] = (30, 220, 40)
    assert cv2.imwrite(str(tmp_path / "two.png"), picture)
    rois = [Roi(0, 0, 40, 40), Roi(40, 0, 40, 40)]
    sink = Notebook()
    seen: list[tuple[str | None, Roi | None]] = []
    with Purifier.load(tiny_bundle) as purifier:
        summary = run(
            purifier,
            open_source(tmp_path / "two.png", roi=rois),
            [sink],
            on_result=lambda frame, result: seen.append((result.label, result.region)),
        )
    assert seen == [("red", rois[0]), ("green", rois[1])]
    assert sink.regions == [2]
    assert len(sink.written) == 2
    assert (summary.frames, summary.labels) == (1, {"red": 1, "green": 1})


def test_one_region_is_told_as_well(tiny_bundle: Path, tmp_path: Path) -> None:
    regions: list[Roi | None] = []
    with Purifier.load(tiny_bundle) as purifier:
        clip = write_video(tmp_path / "clip.avi", 2)
        run(
            purifier,
            open_source(clip, roi=Roi(1, 2, 30, 40)),
            on_result=lambda frame, result: regions.append(result.region),
        )
    assert regions == [Roi(1, 2, 30, 40)] * 2


def test_picture_that_cannot_be_read_has_a_result_without_a_label(tiny_bundle: Path, tmp_path: Path) -> None:
    for i in range(4):
        assert cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.full((40, 50, 3), (30, 40, 220), np.uint8))
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:300])
    results: list[Result] = []
    with Purifier.load(tiny_bundle) as purifier:
        summary = run(
            purifier,
            open_source(tmp_path, on_unreadable="skip", roi=Roi(0, 0, 20, 20)),
            on_result=lambda frame, result: results.append(result),
        )
    assert [result.label for result in results] == ["red", None, "red", "red"]
    assert "1.jpg: not a picture, or a damaged one" in str(results[1].error)
    assert (summary.frames, summary.skipped) == (4, 1)
