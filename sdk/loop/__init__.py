"""The loop: read, purify, write, each on a thread of its own, from the sources' first frame to their last.

    with Purifier.load() as purifier:
        summary = run(purifier, open_source("clip.mp4"), [AnnotatedVideo("out.mp4", fps=25)])

The purifier runs on the caller's thread, which is where Ctrl-C arrives. The queues between the stages are
short: a slow stage holds the others back, and a recorded source loses no frame. Several sources take turns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal, Protocol, get_args, runtime_checkable

from sdk.arrays import Pixels
from sdk.errors import UsageError
from sdk.loop.readers import Readers
from sdk.loop.writer import QUEUE_LENGTH, Writer
from sdk.meter import Meter, Summary
from sdk.result import Result, skipped
from sdk.sinks import Sink
from sdk.sources import Frame, Roi, Source, SourceEvent, SourceState

__all__ = ["QUEUE_LENGTH", "OnSourceError", "Purify", "run"]

OnSourceError = Literal["end", "keep"]

log = logging.getLogger("sdk.sources")


class Purify(Protocol):
    """A Purifier, as the loop calls it."""

    def __call__(
        self, frame: Pixels, *, frame_index: int | None = None, source: str | None = None
    ) -> Result: ...


@runtime_checkable
class PurifyBatch(Protocol):
    """A Purifier, as the loop calls it for frames with several regions."""

    def batch(
        self,
        frames: Sequence[Pixels],
        *,
        frame_index: int | None = None,
        source: str | None = None,
        rois: Sequence[Roi] | None = None,
    ) -> list[Result]: ...


def run(
    purifier: Purify,
    source: Source | Sequence[Source],
    sinks: Sequence[Sink] = (),
    *,
    max_frames: int | None = None,
    on_result: Callable[[Frame, Result], object] | None = None,
    meter: Meter | None = None,
    on_source_error: OnSourceError = "end",
) -> Summary:
    """Purify the sources' frames and write the results, until all end, ``max_frames`` are done, or Ctrl-C.

    Args:
        purifier: called on this thread for every frame.
        source: one, or several that take turns: each that has a frame gets one before any gets its second.
            Closed at the end, whatever happens.
        sinks: opened before the first frame; closed at the end, with all that was purified written. Those
            that need not be on this thread are closed where they were written, out of reach of Ctrl-C.
        max_frames: stop after so many, of all sources together.
        on_result: called on this thread after every result.
        meter: collects the figures; give one to read them when this raises.
        on_source_error: of several sources, "end" the run when one fails, or "keep" the others; what became
            of each is in the Summary then, and an error is raised only if all have failed.

    Returns:
        The figures; ``interrupted`` says that Ctrl-C ended the run.

    Raises:
        SinkError: an output can't be written; before the first frame where that is known by then.
        SourceError: a source is damaged or lost; the frames before that are written.
        BackendError: an engine failed; the frames before that are written.
        UsageError: no source, or a region that does not lie in a frame.
    """
    sources = [source] if isinstance(source, Source) else list(source)
    if not sources:
        raise UsageError("run: expected at least one source, got none")
    if on_source_error not in get_args(OnSourceError):
        raise UsageError(f"on_source_error: expected end or keep, got {on_source_error!r}")
    meter = meter or Meter()
    names = distinct([each.name for each in sources])
    meter.expect_sources(names)
    with ExitStack() as stack:
        for each in sources:
            stack.enter_context(each)
        writer = Writer([sink for sink in sinks if not sink.on_main_thread], meter)
        shown = [sink for sink in sinks if sink.on_main_thread]
        stack.enter_context(writer)
        for sink in shown:
            stack.enter_context(sink)
        for name, each in zip(names, sources, strict=True):
            each.observe(_Watch(name, meter, writer, keep=on_source_error == "keep" and len(sources) > 1))
        readers = Readers(sources, names, meter, keep=on_source_error == "keep")
        stack.enter_context(readers)
        try:
            for n_done, (name, frame) in enumerate(readers, start=1):
                results = _purified(purifier, frame)
                meter.add_results(frame, results, source=name)
                writer.write(frame, results)
                for sink in shown:
                    sink.write_regions(frame, results)
                if on_result is not None:
                    for result in results:
                        on_result(frame, result)
                if n_done == max_frames or any(sink.done for sink in sinks):
                    break
        except KeyboardInterrupt:
            meter.interrupted = True
    return meter.summary()


def distinct(names: Sequence[str]) -> list[str]:
    """``names``, with a number behind those that were given before: two cameras behind one address."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    counts: dict[str, int] = {}
    told = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        told.append(name if counts[name] == 1 else f"{name} #{counts[name]}")
    return told


def _purified(purifier: Purify, frame: Frame) -> list[Result]:
    """The result of each of a frame's regions."""
    if frame.error is not None:
        return [skipped(frame.error, frame_index=frame.index, source=frame.source)]
    if len(frame.rois) > 1:
        if not isinstance(purifier, PurifyBatch):
            raise UsageError(
                "run: several regions need a purifier with a method batch", hint="give a Purifier"
            )
        return purifier.batch(frame.regions, frame_index=frame.index, source=frame.source, rois=frame.rois)
    result = purifier(frame.region, frame_index=frame.index, source=frame.source)
    return [result if frame.roi is None else replace(result, region=frame.roi)]


class _Watch:
    """Passes a source's changes of state to log, meter and sinks, under its name in this run."""

    def __init__(self, name: str, meter: Meter, writer: Writer, *, keep: bool) -> None:
        self._name = name
        self._keep = keep
        self._meter = meter
        self._writer = writer
        self._interrupted_at: float | None = None

    def __call__(self, event: SourceEvent) -> None:
        event = replace(event, source=self._name)
        if event.state is SourceState.FAILED and self._keep:
            log.warning("%s: failed, the others go on: %s", event.source, event.reason)
        if event.state is SourceState.STALLED:
            log.warning("%s: stalled, %s", event.source, event.reason)
        if event.state in (SourceState.STALLED, SourceState.CONNECTING):
            self._interrupted_at = self._interrupted_at or time.monotonic()
        elif event.state is SourceState.LIVE and self._interrupted_at is not None:
            log.warning("%s: live again after %.0f s", event.source, time.monotonic() - self._interrupted_at)
            self._interrupted_at = None
        self._meter.add_event(event)
        self._writer.tell(event)
