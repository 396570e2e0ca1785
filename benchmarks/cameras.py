"""Two RTSP cameras and a file in one run; one camera's server is killed and comes back.

    python benchmarks/cameras.py [--bundle DIR] [--frames 20000] [--phase-s 20] [--gate]

Prints each source's frames a second before, while and after the server is gone, as a share of those before,
and how far the resident memory rose from the run's second quarter to its last. With ``--gate``, exits with
3 if another source loses more than a tenth of its rate, if a lost source's frame comes later than one that
was on its way, or if memory grows by more than 5 MiB. The servers need a Python that has GStreamer's
bindings.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median

import click
import cv2
import numpy as np

from sdk import EdgePurifyError, Purifier
from sdk.benchmark.endurance import resident_bytes_now
from sdk.loop import run
from sdk.result import Result
from sdk.sinks import Sink
from sdk.sources import Frame, Source, SourceEvent, SourceState, open_source

RATE_BOUND = 0.9  # of the rate before
ON_THEIR_WAY = 2  # frames of a lost source that the run holds already
GROWTH_BOUND = 5 * 2**20
WARM_UP_FRAMES = 2000
SAMPLE_FRAMES = 500
CLIP_FRAMES = 1000
PHASES = ("before", "gone", "back")
SERVER = Path(__file__).with_name("rtsp_server.py")


class Server:
    """An RTSP server in a process of its own, always on the same port."""

    def __init__(self, python: str, *options: str) -> None:
        self._python = python
        self._options = options
        self._port = "0"
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/camera"

    def start(self) -> None:
        command = [self._python, str(SERVER), "--port", self._port, *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().strip().partition(" ")
        if word != "ready":
            raise click.ClickException(f"{self._python} can't serve RTSP; see rtsp_server.py")
        self._port = port

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Counts(Sink):
    """Frames of each source in each phase, and what comes late of one that is lost."""

    def __init__(self) -> None:
        self.phase: str | None = None
        self.frames: Counter[tuple[int, str]] = Counter()
        self.late = 0
        self.first: list[SourceState] = []
        self.total = 0
        self.done = False
        self.resident: list[int] = []  # every so many frames
        self._since_loss = 0

    def write(self, frame: Frame, result: Result) -> None:
        self.total += 1
        if self.total % SAMPLE_FRAMES == 0:
            self.resident.append(resident_bytes_now())
        if self.phase is not None:
            self.frames[frame.source_index, self.phase] += 1
        if frame.source_index == 0 and self.first and self.first[-1] is not SourceState.LIVE:
            self._since_loss += 1
            self.late = max(self.late, self._since_loss)

    def source_changed(self, event: SourceEvent) -> None:
        if event.source == "rtsp://127.0.0.1":
            self.first.append(event.state)
            self._since_loss = 0


@click.command()
@click.option("--bundle", help="The default bundle if not given.")
@click.option("--python", default="/usr/bin/python3", show_default=True)
@click.option("--frames", type=click.IntRange(WARM_UP_FRAMES + 1), default=20_000, show_default=True)
@click.option("--phase-s", type=click.FloatRange(1), default=20.0, show_default=True)
@click.option("--gate", is_flag=True, help="Exit with 3 if a bound is missed.")
def main(bundle: str | None, python: str, frames: int, phase_s: float, gate: bool) -> None:
    """Print what the loss of a camera costs the others."""
    counts = Counts()
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [Server(python), Server(python)]
        for server in servers:
            stack.callback(server.kill)
        clip = write_clip(Path(folder) / "clip.avi")
        upset = threading.Thread(target=conduct, args=(servers[0], counts, frames, phase_s, seconds))
        try:
            purifier = stack.enter_context(Purifier.load(bundle, backend="onnxruntime", keep_purified=False))
            sources = [open_source(each.url, patience_s=float("inf")) for each in servers]
            sources.append(Repeated(clip))
            upset.start()
            run(purifier, sources, [counts], on_source_error="keep")
        except EdgePurifyError as error:
            raise click.ClickException(str(error)) from None
        finally:
            counts.done = True
        upset.join()
    if not report(counts, seconds) and gate:
        sys.exit(3)


def conduct(server: Server, counts: Counts, frames: int, phase_s: float, seconds: dict[str, float]) -> None:
    """Take the run through its phases, then to its number of frames."""
    wait_for(counts, lambda: counts.total > WARM_UP_FRAMES and bool(counts.first))
    for phase in PHASES:
        if phase == "gone":
            server.kill()
        elif phase == "back":
            server.start()
            wait_for(counts, lambda: counts.first[-1] is SourceState.LIVE)
        began = time.monotonic()
        counts.phase = phase
        time.sleep(phase_s)
        counts.phase = None
        seconds[phase] = time.monotonic() - began
    wait_for(counts, lambda: counts.total >= frames)
    counts.done = True


def wait_for(counts: Counts, condition: Callable[[], bool]) -> None:
    """Wait, unless the run ends before."""
    while not condition() and not counts.done:
        time.sleep(0.05)


def report(counts: Counts, seconds: dict[str, float]) -> bool:
    """Print the figures; whether all bounds hold."""
    if set(seconds) != set(PHASES):
        raise click.ClickException("the run ended before its last phase; give more --frames")
    is_good = counts.late <= ON_THEIR_WAY and SourceState.CONNECTING in counts.first
    for number, name in enumerate(("camera that is lost", "other camera", "file")):
        rates = [counts.frames[number, phase] / seconds[phase] for phase in PHASES]
        shares = [rate / rates[0] if rates[0] else 0.0 for rate in rates]
        is_good = is_good and shares[2] >= RATE_BOUND and (number == 0 or shares[1] >= RATE_BOUND)
        click.echo(
            f"{name}: {rates[0]:.1f}, {rates[1]:.1f}, {rates[2]:.1f} frames/s before, gone, back; "
            f"shares {shares[1]:.3f}, {shares[2]:.3f}"
        )
    quarter = len(counts.resident) // 4
    growth = int(median(counts.resident[-quarter:]) - median(counts.resident[quarter : 2 * quarter]))
    click.echo(f"frames of the lost camera behind its loss: {counts.late} (at most {ON_THEIR_WAY})")
    click.echo(
        f"{counts.total} frames; memory grew by {growth / 2**20:.1f} MiB (at most {GROWTH_BOUND / 2**20:.0f})"
    )
    return is_good and growth <= GROWTH_BOUND


class Repeated(Source):
    """A video file, over and over."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        self.report(SourceState.LIVE)
        for number in count():
            with open_source(self._path) as clip:
                for frame in clip:
                    if self._stop.is_set():
                        return
                    yield replace(frame, index=number * CLIP_FRAMES + frame.index)

    def close(self) -> None:
        self._stop.set()


def write_clip(path: Path) -> Path:
    """A video of small pictures."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (160, 120))
    for number in range(CLIP_FRAMES):
        writer.write(np.full((120, 160, 3), number % 256, np.uint8))
    writer.release()
    return path


if __name__ == "__main__":
    main()
