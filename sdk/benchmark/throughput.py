"""Throughput of the loop over a video file, against the rate that its stages allow one by one.

Each round times reading, purifying, writing and then the loop of all of them, so that a busy machine slows
them alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, process_time

import cv2

from sdk.benchmark.children import NotMeasured
from sdk.benchmark.report import Throughput
from sdk.benchmark.subject import Subject, Synthetic
from sdk.host.cpus import available_cpus
from sdk.loop import run
from sdk.purifier import Purifier
from sdk.result import Result
from sdk.sinks import open_save
from sdk.sources import Frame, open_source

FRAMES = 240  # of the video
ROUNDS, SAVING_ROUNDS = 7, 3  # odd, for a median that is one of them; encoding takes five times as long
FPS = 30.0
HELD_BYTES = 128 * 2**20  # of frames to time stages on: more than a cache, as each frame is new in the loop
CODEC, SUFFIX = "mp4v", ".mp4"

Seconds = tuple[float, float]  # of wall time and of CPU time, a frame


def loop(subject: Subject) -> tuple[Throughput, ...]:
    """Frames a second of the loop over a video of the subject's frame size, without and with saving one.

    Raises:
        NotMeasured: OpenCV can't write a video here.
    """
    with tempfile.TemporaryDirectory(prefix="edge-purify-") as folder:
        video = _write_video(Path(folder, "source" + SUFFIX), subject)
        return tuple(_throughput(subject, video, saving=saving) for saving in (False, True))


def _throughput(subject: Subject, video: Path, *, saving: bool) -> Throughput:
    """The median round, by how near the loop came to what was possible in that round."""
    purifier = subject.purifier(subject.votes)
    rounds = [_round(purifier, video, saving) for _ in range(SAVING_ROUNDS if saving else ROUNDS)]
    return sorted(rounds, key=lambda one: one.frames_per_s / one.possible_frames_per_s)[len(rounds) // 2]


def _round(purifier: Purifier, video: Path, saving: bool) -> Throughput:
    stages = dict(_stages(purifier, video, saving))
    slowest_s, cpu_s = max(wall for wall, _ in stages.values()), sum(cpu for _, cpu in stages.values())
    cpus = available_cpus()
    return Throughput(
        saving=saving,
        frames_per_s=1 / _loop_s(purifier, video, saving),
        possible_frames_per_s=min(1 / slowest_s, cpus / cpu_s),
        stages_ms={name: wall * 1e3 for name, (wall, _) in stages.items()},
        cpu_ms=cpu_s * 1e3,
        cpus=cpus,
    )


def _stages(purifier: Purifier, video: Path, saving: bool) -> Iterator[tuple[str, Seconds]]:
    """Each stage by itself, seconds a frame."""
    with open_source(video) as source:
        yield "read", _per_frame(lambda: sum(1 for _ in source), FRAMES)
    with open_source(video) as source:
        frames = iter(source)
        first = next(frames)
        held = [first, *islice(frames, HELD_BYTES // first.image.nbytes)]
    done: list[tuple[Frame, Result]] = []

    def purify() -> None:
        done[:] = [(frame, purifier(frame.image)) for frame in islice(cycle(held), FRAMES)]

    yield "purify", _per_frame(purify, FRAMES)
    if not saving:
        return

    def write() -> None:
        with open_save(video.with_name("alone" + SUFFIX), FPS) as sink:
            for frame, result in done:
                sink.write(frame, result)

    yield "write", _per_frame(write, FRAMES)


def _loop_s(purifier: Purifier, video: Path, saving: bool) -> float:
    """Seconds a frame of the whole loop, from an open source to the last frame written."""
    with ExitStack() as stack:
        source = stack.enter_context(open_source(video))
        sinks = [open_save(video.with_name("saved" + SUFFIX), FPS)] if saving else []
        start = perf_counter()
        summary = run(purifier, source, sinks)
        return (perf_counter() - start) / summary.frames


def _per_frame(work: Callable[[], object], frames: int) -> Seconds:
    wall, cpu = perf_counter(), process_time()
    work()
    return (perf_counter() - wall) / frames, (process_time() - cpu) / frames


def _write_video(path: Path, subject: Subject) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), FPS, subject.frame_size)
    if not writer.isOpened():
        raise NotMeasured(f"OpenCV has no {CODEC} encoder here to write a video with")
    for frame in Synthetic(*subject.frame_size, FRAMES):
        writer.write(frame.image)
    writer.release()
    return path
