"""RTSP cameras and a file in one run, over real servers: one is killed and comes back, the others go on."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdk.errors import SourceError
from sdk.loop import run
from sdk.result import Result
from sdk.sinks import Sink
from sdk.sources import Frame, SourceEvent, SourceState, open_source
from sdk.sources.video import pyav
from tests.sdk.conftest import DEADLINE_S, make_result, wait_until, write_video

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
N_CLIP = 200


@cache
def python_with_gstreamer() -> str | None:
    """A Python that has GStreamer's RTSP server; None where there is none."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    for name in dict.fromkeys((sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin"))):
        if name is None or (name == sys.executable and importlib.util.find_spec("gi") is None):
            continue
        if subprocess.run([name, "-c", probe], capture_output=True, check=False).returncode == 0:
            return name
    return None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(pyav.av is None, reason="PyAV is not installed"),
    pytest.mark.skipif(
        python_with_gstreamer() is None,
        reason="no GStreamer RTSP server: Debian's python3-gi and gir1.2-gst-rtsp-server-1.0",
    ),
]


@pytest.fixture
def start_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts one in a process of its own, always on the same port; all are killed at the end."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from cameras import Server

    started: list[Any] = []

    def start(*options: str) -> Any:
        started.append(Server(python_with_gstreamer(), *options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def servers(start_server: Callable[..., Any]) -> list[Any]:
    return [start_server(), start_server("--size", "160x120")]


class Log(Sink):
    """What the sources did, in the order of the run; each entry is a frame's number or a state."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int | SourceState]] = []
        self.done = False
        self.written = 0

    def write(self, frame: Frame, result: Result) -> None:
        self.entries.append((frame.source, frame.index))

    def source_changed(self, event: SourceEvent) -> None:
        self.entries.append((event.source, event.state))

    def count(self, source: str) -> int:
        return sum(name == source and isinstance(what, int) for name, what in list(self.entries))

    def states(self, source: str) -> list[SourceState]:
        return [what for name, what in list(self.entries) if name == source and isinstance(what, SourceState)]


def purify(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
    time.sleep(0.002)
    return make_result()


def test_server_that_is_killed_and_comes_back(servers: list[Any], tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", N_CLIP)
    sources = [open_source(server.url, patience_s=float("inf")) for server in servers]
    sources.append(open_source(clip))
    first, second, file = "rtsp://127.0.0.1", "rtsp://127.0.0.1 #2", str(clip)
    log = Log()

    def upset() -> None:
        try:
            wait_until(lambda: log.count(first) > 20 and log.count(second) > 20, "frames of both cameras")
            servers[0].kill()
            wait_until(lambda: SourceState.CONNECTING in log.states(first), "the loss to be noticed")
            before = log.count(second)
            wait_until(lambda: log.count(second) > before + 50, "the other's frames meanwhile")
            servers[0].start()
            wait_until(lambda: log.states(first)[-1] is SourceState.LIVE, "the server to be live again")
            before = log.count(first)
            wait_until(lambda: log.count(first) > before + 20, "its frames")
        finally:
            log.done = True

    thread = threading.Thread(target=upset)
    thread.start()
    summary = run(purify, sources, [log], on_source_error="keep")
    thread.join(DEADLINE_S)

    assert summary.sources[file].frames == N_CLIP, "the file lost nothing"
    states = log.states(first)
    assert states[0] is SourceState.LIVE
    assert states[-1] is SourceState.LIVE
    assert SourceState.CONNECTING in states
    assert set(log.states(second)) == {SourceState.LIVE}, "the other camera was live all along"
    _check_nothing_stale_is_live(log, first)
    for name in (first, second):
        numbers = [what for source, what in log.entries if source == name and isinstance(what, int)]
        assert numbers == sorted(set(numbers)), "no frame twice, none out of order"


def _check_nothing_stale_is_live(log: Log, source: str) -> None:
    """Once a source is lost, it gives no frame until it says that it is live again.

    One frame may be on its way through the run when the loss is noticed, in each of its two places.
    """
    n_since_loss, is_lost = 0, False
    for name, what in log.entries:
        if name != source:
            continue
        if isinstance(what, SourceState):
            is_lost, n_since_loss = what is not SourceState.LIVE, 0
        elif is_lost:
            n_since_loss += 1
            assert n_since_loss <= 2


def test_camera_without_a_picture_is_refused(start_server: Callable[..., Any]) -> None:
    with pytest.raises(SourceError, match=r"rtsp://127.0.0.1: no video in it, only sound"):
        open_source(start_server("--sound").url)
