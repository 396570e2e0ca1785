"""The runtime for hours as it runs unattended, with all that goes wrong: memory, files, threads, latency.

In a process of its own: a live source that is lost and comes back, an engine that fails now and then, a page,
and files that are written, closed and deleted. In this one: viewers of the page that come and go.
"""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
import numpy as np

from sdk.backends.interface import Backend, Float, Inference
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.benchmark.children import Child, NotMeasured
from sdk.benchmark.report import Interval, Quantiles, Unattended
from sdk.benchmark.subject import Subject, natural_frame
from sdk.bundle import Bundle
from sdk.draw import Draw
from sdk.errors import BackendError
from sdk.host.children import python_module
from sdk.loop import run
from sdk.meter import Durations
from sdk.purifier import Purifier
from sdk.result import Result
from sdk.sinks import AnnotatedVideo, JsonLines, Sink
from sdk.sinks.preview import Preview
from sdk.sources import Frame, SourceEvent, SourceState
from sdk.sources.live import Live

INTERVALS = 12
SECONDS_BETWEEN_LOSSES = 10.0  # on average, as are all below
SHARE_OF_FAILED_RETRIES = 0.5
FRAMES_BETWEEN_FAILURES = 1000
FRAMES_PER_FILE = 2000
FRAMES_PER_PICTURE = 25  # of the frames, so many go into the video, whose encoding costs most
SECONDS_BETWEEN_SAMPLES = 0.5
FRAME_S = 0.0005  # the camera's; the loop takes the newest whenever it can
VIEWERS = 3
LONGEST_LOOK_S = 5.0
_WANDER = 64  # pixels
_CHANCE = secrets.SystemRandom()


def soak_hours(subject: Subject, hours: float, on_interval: Callable[[], None]) -> Unattended:
    """Run for ``hours``; ``on_interval`` is called after each twelfth of them.

    Raises:
        NotMeasured: this system doesn't report what a process holds, or the page's packages are missing.
        BackendError: the process ended.
    """
    _require_means()
    bundle, precision = subject.bundle, subject.backend.precision
    numbers = (*subject.frame_size, len(bundle.manifest.purifiers), round(hours * 3600))
    command = python_module(
        "sdk.benchmark", "unattended", str(bundle.folder), precision, *(str(number) for number in numbers)
    )
    with Child("soak", command) as child, ExitStack() as stack:
        url = msgspec.json.decode(child.hear(), type=str)
        crowd = stack.enter_context(Crowd(url))
        intervals = []
        for _ in range(INTERVALS):
            intervals.append(msgspec.json.decode(child.hear(), type=Interval))
            on_interval()
        failures = msgspec.json.decode(child.hear(), type=int)
        return Unattended(hours, tuple(intervals), failures, crowd.visits)


def endure_unattended(
    bundle: Bundle, backend: OnnxRuntimeBackend, frame_size: tuple[int, int], seconds: int
) -> Iterator[str | Interval | int]:
    """In a fresh process: the page's address, an Interval for each twelfth of ``seconds``, failed runs."""
    told: queue.Queue[str | Interval | BaseException | None] = queue.Queue()
    faulty = Faulty(backend)

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="edge-purify-") as folder:
                _run(Purifier(bundle, faulty, on_error="skip"), Path(folder), told.put, (frame_size, seconds))
            told.put(None)
        except BaseException as error:
            told.put(error)

    threading.Thread(target=work, name="soak", daemon=True).start()
    while (item := told.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
    yield faulty.failures


def _run(
    purifier: Purifier,
    folder: Path,
    tell: Callable[[str | Interval], object],
    plan: tuple[tuple[int, int], int],
) -> None:
    """The loop under a camera that is lost and back, with a page and files, until the time is over."""
    frame_size, seconds = plan
    connect = partial(Camera, natural_frame(frame_size[0] + _WANDER, frame_size[1]), frame_size[0])
    source = Live(
        "soak", connect(), reconnect=partial(_reconnect, connect), patience_s=float("inf"), first_retry_s=0.05
    )
    log = Log(seconds / INTERVALS, tell)
    sinks: list[Sink] = [
        Preview("127.0.0.1:0", purifier.bundle, on_open=tell),
        Rolling(folder, purifier.bundle.labels),
        log,
    ]
    run(purifier, source, sinks)


class Camera:
    """A capture with the methods of ``cv2.VideoCapture``: frames, until the connection is lost at random."""

    def __init__(self, scene: np.ndarray, width: int) -> None:
        self._scene = scene
        self._width = width
        self._n_read = 0
        self._lost_at = time.monotonic() + _CHANCE.expovariate(1 / SECONDS_BETWEEN_LOSSES)

    def isOpened(self) -> bool:
        return True

    def get(self, prop: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(FRAME_S)
        if time.monotonic() > self._lost_at:
            return False, None
        self._n_read += 1
        left = self._n_read % _WANDER
        return True, self._scene[:, left : left + self._width]

    def release(self) -> None:
        pass


class _Absent:
    """A camera that isn't back yet."""

    def isOpened(self) -> bool:
        return False


def _reconnect(connect: Callable[[], Camera]) -> Camera | _Absent:
    return _Absent() if _CHANCE.uniform(0, 1) < SHARE_OF_FAILED_RETRIES else connect()


class Faulty:
    """A backend, one of whose engines fails now and then."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.version, self.precision = backend.name, backend.version, backend.precision
        self.graphs, self.concurrent = backend.graphs, backend.concurrent
        self.failures = 0
        self._backend = backend

    def run(self, draw: Draw, image: Float, *, want_purified: bool) -> Inference:
        if _CHANCE.uniform(0, 1) < 1 / FRAMES_BETWEEN_FAILURES:
            self.failures += 1
            raise BackendError(f"engine {draw.purifier_id}: failed on purpose")
        return self._backend.run(draw, image, want_purified=want_purified)

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        return self._backend.purify(purifier, image, random_inputs)

    def classify(self, classifier: int, image: Float) -> Float:
        return self._backend.classify(classifier, image)

    def close(self) -> None:
        self._backend.close()


class Rolling(Sink):
    """A video and a file of JSON lines, begun anew every ``FRAMES_PER_FILE`` frames; old ones are deleted."""

    def __init__(self, folder: Path, labels: tuple[str, ...]) -> None:
        self._folder = folder
        self._labels = labels
        self._n_written = 0
        self._open = ExitStack()

    def open(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        name = self._folder / f"{self._n_written:09d}"
        self._video = self._open.enter_context(AnnotatedVideo(f"{name}.mp4", fps=25.0))
        self._lines = self._open.enter_context(JsonLines(f"{name}.jsonl", self._labels))

    def write(self, frame: Frame, result: Result) -> None:
        self._lines.write(frame, result)
        if self._n_written % FRAMES_PER_PICTURE == 0:
            self._video.write(frame, result)
        self._n_written += 1
        if self._n_written % FRAMES_PER_FILE == 0:
            self._open.close()
            self.open()

    def close(self) -> None:
        self._open.close()


class Log(Sink):
    """Adds up intervals, and ends the run behind the last one."""

    def __init__(self, interval_s: float, tell: Callable[[Interval], object]) -> None:
        self.done = False
        self._interval_s = interval_s
        self._tell = tell
        self._n_told = 0
        self._last_index = -1
        self._sampled_at = 0.0
        self._began = time.monotonic()
        self._least: tuple[int, ...] = ()
        self._reset()

    def write(self, frame: Frame, result: Result) -> None:
        self._frames += 1
        self._skipped += result.label is None
        self._missed += frame.index - self._last_index - 1
        self._last_index = frame.index
        self._times.add(result.timings.total_ms)
        now = time.monotonic()
        if now - self._sampled_at > SECONDS_BETWEEN_SAMPLES:
            self._sampled_at = now
            self._least = tuple(map(min, zip(self._least, holdings(), strict=True)))
        if now - self._began > (self._n_told + 1) * self._interval_s and not self.done:
            self._finish(now - self._began)

    def source_changed(self, event: SourceEvent) -> None:
        self._losses += event.state is SourceState.CONNECTING

    def _finish(self, ended_s: float) -> None:
        resident_bytes, open_files, threads = self._least
        self._tell(
            Interval(
                ended_s=ended_s,
                frames=self._frames,
                skipped=self._skipped,
                missed=self._missed,
                losses=self._losses,
                resident_bytes=resident_bytes,
                open_files=open_files,
                threads=threads,
                latency=Quantiles(*self._times.percentiles()),
            )
        )
        self._n_told += 1
        self.done = self._n_told == INTERVALS
        self._reset()

    def _reset(self) -> None:
        self._frames = self._skipped = self._missed = self._losses = 0
        self._times = Durations()
        self._least = holdings()


def holdings() -> tuple[int, int, int]:
    """This process's resident bytes, open files and threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - less that of the listing
    return pages * os.sysconf("SC_PAGE_SIZE"), files, len(os.listdir("/proc/self/task"))  # noqa: PTH208


class Crowd:
    """Viewers of the page that come, look at something for a while, and go without a word."""

    PAGES = ("", "status", "metrics", "frame", "pair.png", "live.mjpg", "live.mjpg")

    def __init__(self, url: str) -> None:
        self.visits = 0
        self._url = urlsplit(url)
        self._leave = threading.Event()
        self._viewers = [threading.Thread(target=self._look, daemon=True) for _ in range(VIEWERS)]

    def __enter__(self) -> Crowd:
        for viewer in self._viewers:
            viewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        for viewer in self._viewers:
            viewer.join(2 * LONGEST_LOOK_S)

    def _look(self) -> None:
        while not self._leave.wait(_CHANCE.uniform(0, 1)):
            url = urlunsplit(self._url._replace(path="/" + _CHANCE.choice(self.PAGES)))
            until = time.monotonic() + _CHANCE.uniform(0, LONGEST_LOOK_S)
            with suppress(OSError), urllib.request.urlopen(url, timeout=LONGEST_LOOK_S) as response:
                self.visits += 1
                while time.monotonic() < until and not self._leave.is_set() and response.read(1 << 14):
                    pass


def _require_means() -> None:
    if not Path("/proc/self/task").exists():
        raise NotMeasured("what a process holds is read from /proc, which this system lacks")
    try:
        import aiohttp  # noqa: F401 - of the page
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise NotMeasured(f"the page needs packages that are missing ({error}): 'edge-purify[web]'") from None
