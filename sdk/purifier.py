"""Runtime API: draw engines, purify and classify, one frame or several regions at a time.

    with Purifier.load("bundle/") as purifier:
        result = purifier(frame)
        results = purifier.batch([roi.crop(frame) for roi in rois])
        for result in purifier.stream("clip.mp4"):
            ...

It fails closed: if an engine fails, no label of an unpurified image comes out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import TracebackType

from sdk.arrays import Pixels
from sdk.backends import open_backend
from sdk.backends.interface import Backend
from sdk.bundle import Bundle, default_bundle
from sdk.draw import Drawer
from sdk.errors import BackendError, UsageError
from sdk.host.cpus import available_cpus
from sdk.inference import Ensemble, OnError, Rules, Task, check_options
from sdk.preprocess import Preprocessor, check_frame
from sdk.result import Result, Timings, Undefended
from sdk.sources.roi import Roi
from sdk.workers import Workers

__all__ = ["OnError", "Purifier", "Result", "Timings", "Undefended"]

_log = logging.getLogger("sdk")


class Purifier:
    """A bundle loaded into a backend, ready for frames. Threads may share it: their calls are serialized.

    Args:
        bundle: a verified bundle.
        backend: its engines, loaded; the purifier closes it.
        votes: draws per frame whose probabilities are averaged, >= 1.
        on_error: "raise" an engine's failure, or "skip" the frame and say so in its Result.
        keep_purified: False if nobody will look at ``Result.purified``, which then is None: on a GPU the
            purified image stays there.
        suspicion: True for ``Result.suspicion``, at the cost of one more run of a classifier per frame.
        min_score: the least score, in [0, 1], of a label; a frame whose best class has less gets the label
            ``sdk.result.UNSURE`` and ``Result.accepted`` False.
        hide_draw: True to leave the draws out of every Result, since a query attacker learns from them.
        seed: for reproducible tests only; marks every Result.

    Raises:
        UsageError: an argument is impossible.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        votes: int = 1,
        on_error: OnError = "raise",
        keep_purified: bool = True,
        suspicion: bool = False,
        min_score: float = 0.0,
        hide_draw: bool = False,
        seed: int | None = None,
    ) -> None:
        check_options(votes, on_error, min_score)
        self.bundle = bundle
        self.backend = backend
        self.votes = votes
        self.on_error = on_error
        self.keep_purified = keep_purified
        self.suspicion = suspicion
        self.min_score = min_score
        self.hide_draw = hide_draw
        self._drawer = Drawer(bundle.manifest, seed)
        rules = Rules(on_error, min_score, hide_draw, self._drawer.seeded)
        self._ensemble = Ensemble(bundle, backend, rules, keep_purified=keep_purified, suspicion=suspicion)
        self._preprocess = Preprocessor(bundle.manifest.image)
        self._workers: Workers[Preprocessor] | None = None  # started by the first batch that can use them
        self._lock = Lock()
        self._closed = False

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        backend: str = "auto",
        precision: str = "auto",
        provider: str = "cpu",
        device: int = 0,
        cuda_binding: str = "auto",
        votes: int = 1,
        on_error: OnError = "raise",
        keep_purified: bool = True,
        suspicion: bool = False,
        min_score: float = 0.0,
        hide_draw: bool = False,
        seed: int | None = None,
        require_signature: str | os.PathLike[str] | None = None,
        min_version: int | None = None,
        purpose: str | None = None,
        remember_version: bool = False,
    ) -> Purifier:
        """Verify a bundle, by default the one that ships with the package, and load its engines.

        ``backend``, ``precision``, ``provider``, ``device`` and ``cuda_binding`` choose the runtime, see
        ``open_backend``.
        ``require_signature`` is the PEM file of the Ed25519 public key that must have signed the bundle, and
        ``min_version``, ``purpose`` and ``remember_version`` are asked of what it signed, see
        ``Bundle.open``; who passes a ``Bundle`` has opened it with them.

        Raises:
            UsageError: an argument is impossible.
            BundleError: the bundle is missing, damaged, of an unknown schema, or not signed as required.
            BackendError: the backend is absent, or can't load an engine.
        """
        check_options(votes, on_error, min_score)  # before the engines, which take longer
        if not isinstance(bundle, Bundle):
            folder = default_bundle() if bundle is None else bundle
            bundle = Bundle.open(
                folder,
                public_key=require_signature,
                min_version=min_version,
                purpose=purpose,
                remember_version=remember_version,
            )
        elif require_signature is not None or min_version is not None or purpose or remember_version:
            raise UsageError(
                "require_signature: the bundle is open already",
                hint="give the key, and what is asked of the bundle, to Bundle.open",
            )
        opened = open_backend(bundle, backend, precision, provider, device=device, cuda_binding=cuda_binding)
        try:
            return cls(
                bundle,
                opened,
                votes=votes,
                on_error=on_error,
                keep_purified=keep_purified,
                suspicion=suspicion,
                min_score=min_score,
                hide_draw=hide_draw,
                seed=seed,
            )
        except UsageError:
            opened.close()
            raise

    def __call__(self, frame: Pixels, *, frame_index: int | None = None, source: str | None = None) -> Result:
        """Purify and classify one frame under a fresh draw.

        Args:
            frame: ``(H, W, 3)`` uint8 BGR of any size; not changed, not kept.
            frame_index: passed on to the Result.
            source: passed on to the Result.

        Raises:
            UsageError: not such a frame, or the purifier is closed.
            BackendError: an engine failed, and ``on_error`` is "raise".
        """
        check_frame(frame)
        with self._lock:
            self._check_open()
            start = perf_counter()
            draws = self._drawer.draw(self.votes)
            task = Task(draws, perf_counter() - start, frame_index, source)
            return self._ensemble.decide(frame, task, self._preprocess)

    def batch(
        self,
        frames: Sequence[Pixels],
        *,
        frame_index: int | None = None,
        source: str | None = None,
        rois: Sequence[Roi] | None = None,
    ) -> list[Result]:
        """Purify and classify several pictures, each under a draw of its own: regions of one frame, for one.

        Where the backend can run several engines at a time, the pictures are spread over the cores; where the
        bundle has engines for several images, those that drew the same engine share a run.

        Args:
            frames: each ``(H, W, 3)`` uint8 BGR of any size; views will do.
            frame_index: passed on to every Result.
            source: passed on to every Result.
            rois: the region that each picture shows, for ``Result.region``.

        Returns:
            One Result per picture, in their order.

        Raises:
            UsageError: not such frames, not as many ``rois``, or the purifier is closed.
            BackendError: an engine failed, and ``on_error`` is "raise".
        """
        for frame in frames:
            check_frame(frame)
        if rois is not None and len(rois) != len(frames):
            raise UsageError(f"rois: expected one per frame, {len(frames)}, got {len(rois)}")
        if not frames:
            return []
        with self._lock:
            self._check_open()
            start = perf_counter()
            draws = self._drawer.draw(self.votes * len(frames))
            draw_s = (perf_counter() - start) / len(frames)

            tasks = [
                Task(draws[i * self.votes : (i + 1) * self.votes], draw_s, frame_index, source, region)
                for i, region in enumerate([None] * len(frames) if rois is None else rois)
            ]
            if len(frames) > 1 and self._ensemble.runs_batches:
                return self._ensemble.decide_together(frames, tasks, self._preprocess)

            # pictures that drew the same engines in a row, while their weights are in the cache
            order = sorted(
                range(len(frames)), key=lambda i: (tasks[i].draws[0].classifier, tasks[i].draws[0].purifier)
            )
            n_threads = available_cpus() if self.backend.concurrent else 1
            parts = _parts(order, n_threads)

            def decide(number: int, preprocess: Preprocessor) -> list[Result]:
                mine = parts[number]
                ensemble = self._ensemble
                if not ensemble.runs_phases:
                    return [ensemble.decide(frames[i], tasks[i], preprocess) for i in mine]
                return ensemble.decide_several(
                    [frames[i] for i in mine], [tasks[i] for i in mine], preprocess
                )

            if len(parts) == 1:
                found = [decide(0, self._preprocess)]
            else:
                if self._workers is None:
                    self._workers = Workers(n_threads, lambda: Preprocessor(self.bundle.manifest.image))
                found = self._workers.map(decide, range(len(parts)))
            results = {
                i: result
                for part, made in zip(parts, found, strict=True)
                for i, result in zip(part, made, strict=True)
            }
            return [results[i] for i in range(len(frames))]

    def stream(self, source: int | str | Path, *, roi: Roi | Sequence[Roi] | None = None) -> Iterator[Result]:
        """Purify every frame of a camera index, video, picture, folder, glob or stream address.

        The source is opened at the first step and closed when the iteration ends. ``roi`` is the part of
        every frame to purify, all of it by default; with several, each gives a Result.

        Raises:
            SourceError: it can't be opened or read; and all that a call raises.
            UsageError: a frame that ``roi`` does not lie in.
        """
        from sdk.sources import open_source

        with open_source(source, roi=roi) as frames:
            for frame in frames:
                yield from self.batch(
                    frame.regions, frame_index=frame.index, source=frame.source, rois=frame.rois or None
                )

    def undefended(self, frame: Pixels) -> Undefended:
        """Classify a frame **without** purifying it, by all classifiers, for comparison.

        Raises:
            UsageError: not HxWx3 uint8, or the purifier is closed.
            BackendError: an engine failed.
        """
        with self._lock:
            self._check_open()
            probabilities = self._ensemble.undefended(self._preprocess(frame))
        label, score = self._ensemble.best(probabilities)
        return Undefended(label, score, probabilities)

    def close(self) -> None:
        """Release the engines, once the call under way has ended; closing twice is harmless."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if self._workers is not None:
                    self._workers.close()
                self.backend.close()

    def __enter__(self) -> Purifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BackendError as failure:
            if error is None:
                raise
            _log.debug("closing failed as well: %s", failure)  # the error on its way is what went wrong

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this Purifier is closed", hint="load it again")


def _parts(order: Sequence[int], n_threads: int) -> list[Sequence[int]]:
    """Two parts for each thread, so that a slow one doesn't hold up the others; all in one for one thread."""
    size = len(order) if n_threads == 1 else -(-len(order) // (2 * n_threads))
    return [order[start : start + size] for start in range(0, len(order), size)]
