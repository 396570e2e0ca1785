"""Prometheus metrics of the loop, in base units: times are in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sdk.sinks.preview.feed import PICTURES
from sdk.sources.state import SourceState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdk.bundle import Bundle
    from sdk.result import Result
    from sdk.sources import Frame, SourceEvent

CONTENT_TYPE = CONTENT_TYPE_LATEST
TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
STAGES = ("preprocess", "draw", "purify", "classify", "total")
SECONDS = (1e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Counts every frame of a run; a registry of its own, so that runs in one process stay apart."""

    def __init__(self, bundle: Bundle) -> None:
        self._registry = CollectorRegistry()
        self._frames = self._count("frames", "Frames that went through the purifier, skipped ones included.")
        self._skipped = self._count("frames_skipped", "Frames without a label, since an engine failed.")
        self._missed = self._count(
            "frames_missed", "A live source's frames that came while one was worked on."
        )
        self._labels = self._count("labels", "Frames by label.", "label")
        self._draws = self._count("draws", "Draws by engine, one per vote.", "purifier", "classifier")
        stages = Histogram(
            "edge_purify_stage_seconds",
            "Time of a frame per stage; total is all of them.",
            ("stage",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._stages = [(f"{stage}_ms", stages.labels(stage)) for stage in STAGES]
        self._suspicion = Histogram(
            "edge_purify_suspicion",
            "How far raw and purified decisions disagree, of frames that it was asked of.",
            buckets=TENTHS,
            registry=self._registry,
        )
        Info("edge_purify_bundle", "The bundle that is running.", registry=self._registry).info(
            {"name": bundle.manifest.name, "family": bundle.manifest.family, "sha256": bundle.digest}
        )
        self._states = Gauge(
            "edge_purify_source_state",
            "1 for the state that a source is in, 0 for the others.",
            ("source", "state"),
            registry=self._registry,
        )
        self._changes = self._count("source_changes", "Changes of a source's state.", "source", "state")
        self._next_index: dict[str, int] = {}

    def add(self, frame: Frame, results: Sequence[Result]) -> None:
        self._frames.inc()
        self._count_missed(frame)
        for result in results:
            self._add(result)

    def change(self, event: SourceEvent) -> None:
        """Note a source's state."""
        name = event.source.encode(errors="backslashreplace").decode()
        for state in SourceState:
            self._states.labels(name, state.value).set(state is event.state)
        self._changes.labels(name, event.state.value).inc()

    def _count_missed(self, frame: Frame) -> None:
        source = PICTURES if frame.time_s is None else frame.source
        self._missed.inc(max(0, frame.index - self._next_index.get(source, 0)))
        self._next_index[source] = frame.index + 1

    def _add(self, result: Result) -> None:
        if result.label is None:
            self._skipped.inc()
        else:
            self._labels.labels(result.label).inc()
        for draw in result.draws:
            self._draws.labels(draw.purifier_id, draw.classifier_id).inc()
        if result.suspicion is not None:
            self._suspicion.observe(result.suspicion)
        for field, stage in self._stages:
            stage.observe(getattr(result.timings, field) / 1e3)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def _count(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"edge_purify_{name}", help, labels, registry=self._registry)
