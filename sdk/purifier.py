"""The runtime: draw, purify, classify, one frame at a time.

    with Purifier.load("bundle/") as purifier:
        result = purifier(frame)
        for result in purifier.stream("clip.mp4"):
            ...

It fails closed: whatever goes wrong in an engine, no label of an unpurified image comes out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import Literal, NamedTuple, get_args

import numpy as np

from sdk.backends import open_backend
from sdk.backends.interface import Backend, Float, checked
from sdk.bundle import Bundle, default_bundle
from sdk.draw import Draw, Drawer
from sdk.errors import BackendError, UsageError
from sdk.preprocess import Frame, Preprocessor
from sdk.result import Result, Timings, Undefended
from sdk.sources.roi import Roi
from sdk.suspicion import suspicion as suspicion_of

__all__ = ["OnError", "Purifier", "Result", "Timings", "Undefended"]

OnError = Literal["raise", "skip"]

_log = logging.getLogger("sdk")


class Purifier:
    """A bundle loaded into a backend, ready for frames; threads may share it, their calls are serialized.

    Args:
        bundle: a verified bundle.
        backend: its engines, loaded; the purifier closes it.
        votes: draws per frame whose probabilities are averaged, >= 1.
        on_error: "raise" an engine's failure, or "skip" the frame and say so in its Result.
        keep_purified: False if nobody will look at ``Result.purified``, which then is None: on a GPU the
            purified image stays there.
        suspicion: True for ``Result.suspicion``, at the cost of one more run of a classifier per frame.
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
        seed: int | None = None,
    ) -> None:
        _check_arguments(votes, on_error)
        self.bundle = bundle
        self.backend = backend
        self.votes = votes
        self.on_error = on_error
        self.keep_purified = keep_purified
        self.suspicion = suspicion
        self._drawer = Drawer(bundle.manifest, seed)
        self._preprocess = Preprocessor(bundle.manifest.image)
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
        votes: int = 1,
        on_error: OnError = "raise",
        keep_purified: bool = True,
        suspicion: bool = False,
        seed: int | None = None,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> Purifier:
        """Verify a bundle, by default the one that ships with the package, and load its engines.

        ``backend``, ``precision`` and ``provider`` choose what runs the engines, see ``open_backend``.
        ``require_signature`` is the PEM file of the Ed25519 public key that must have signed the bundle; a
        ``Bundle`` is opened with it by the caller.

        Raises:
            UsageError: an argument is impossible.
            BundleError: the bundle is missing, damaged, of an unknown schema, or not signed as required.
            BackendError: the backend is absent, or can't load an engine.
        """
        _check_arguments(votes, on_error)  # before the engines, which take longer
        if not isinstance(bundle, Bundle):
            folder = default_bundle() if bundle is None else bundle
            bundle = Bundle.open(folder, public_key=require_signature)
        elif require_signature is not None:
            raise UsageError(
                "require_signature: the bundle is open already; give the key to Bundle.open as public_key"
            )
        opened = open_backend(bundle, backend, precision, provider)
        try:
            return cls(
                bundle,
                opened,
                votes=votes,
                on_error=on_error,
                keep_purified=keep_purified,
                suspicion=suspicion,
                seed=seed,
            )
        except UsageError:
            opened.close()
            raise

    def __call__(self, frame: Frame, *, frame_index: int | None = None, source: str | None = None) -> Result:
        """Purify and classify one frame under a fresh draw.

        Args:
            frame: HxWx3 uint8 BGR of any size; not changed, not kept.
            frame_index, source: passed on to the Result.

        Raises:
            UsageError: not such a frame, or the purifier is closed.
            BackendError: an engine failed, and ``on_error`` is "raise".
        """
        with self._lock:
            self._check_open()
            start = perf_counter()
            image = self._preprocess(frame)
            preprocessed = perf_counter()
            draws = self._drawer.draw(self.votes)
            drawn = perf_counter()
            error = None
            try:
                inferred = self._infer(image, draws)
            except BackendError as failure:
                if self.on_error == "raise":
                    raise
                inferred, error = _SKIPPED, str(failure)
            end = perf_counter()
        timings = Timings(
            preprocess_ms=(preprocessed - start) * 1e3,
            draw_ms=(drawn - preprocessed) * 1e3,
            purify_ms=inferred.purify_s * 1e3,
            classify_ms=inferred.classify_s * 1e3,
            total_ms=(end - start) * 1e3,
        )
        return Result(
            inferred.label,
            inferred.score,
            inferred.probabilities,
            draws,
            timings,
            self._drawer.seeded,
            error,
            frame_index,
            source,
            inferred.suspicion,
            inferred.purified,
        )

    def stream(self, source: int | str | Path, *, roi: Roi | None = None) -> Iterator[Result]:
        """Purify every frame of a camera index, video, picture, folder, glob or stream address.

        The source is opened at the first step and closed when the iteration ends.  ``roi`` is the part of
        every frame to purify, all of it by default.

        Raises:
            SourceError: it can't be opened or read; and all that a call raises.
            UsageError: a frame that ``roi`` does not lie in.
        """
        from sdk.sources import open_source

        with open_source(source, roi=roi) as frames:
            for frame in frames:
                yield self(frame.region, frame_index=frame.index, source=frame.source)

    def undefended(self, frame: Frame) -> Undefended:
        """Classify a frame **without** purifying it, by all classifiers: what an attack does unopposed.

        Raises:
            UsageError: not HxWx3 uint8, or the purifier is closed.
            BackendError: an engine failed.
        """
        with self._lock:
            self._check_open()
            image = self._preprocess(frame)
            n_classifiers = len(self.bundle.manifest.classifiers)
            each = [self._probabilities(j, self.backend.classify(j, image)) for j in range(n_classifiers)]
            probabilities = np.mean(each, axis=0)
        label, score = self._best(probabilities)
        return Undefended(label, score, probabilities)

    def close(self) -> None:
        """Release the engines, once the call under way has ended; closing twice is harmless."""
        with self._lock:
            if not self._closed:
                self._closed = True
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

    def _infer(self, image: Float, draws: Sequence[Draw]) -> _Inference:
        """Purify and classify ``image`` once per draw; the mean probabilities, the first purified image."""
        first: Float | None = None
        votes: list[Float] = []
        purify_s = classify_s = 0.0
        for draw in draws:
            inference = self.backend.run(draw, image, want_purified=self.keep_purified and not votes)
            if inference.purified is not None:
                first = inference.purified[0].copy()  # the backend may reuse its buffer
            votes.append(self._probabilities(draw.classifier, inference.logits))
            purify_s += inference.purify_s
            classify_s += inference.classify_s
        suspicion = None
        if self.suspicion:
            start = perf_counter()
            suspicion = self._suspicion(image, draws[0].classifier, votes)
            classify_s += perf_counter() - start
        probabilities = votes[0] if len(votes) == 1 else np.mean(votes, axis=0)
        return _Inference(*self._best(probabilities), probabilities, suspicion, first, purify_s, classify_s)

    def _suspicion(self, image: Float, classifier: int, votes: Sequence[Float]) -> float:
        raw = self._probabilities(classifier, self.backend.classify(classifier, image))
        return float(suspicion_of(raw, np.asarray(votes)))

    def _probabilities(self, classifier: int, logits: Float) -> Float:
        """A classifier's ``logits``, ``(1, n_classes)``, checked and as probabilities ``(n_classes,)``."""
        engine_id = self.bundle.manifest.classifiers[classifier].id
        return softmax(checked(logits, (1, len(self.bundle.labels)), engine_id)[0])

    def _best(self, probabilities: Float) -> tuple[str, float]:
        index = int(probabilities.argmax())
        return self.bundle.labels[index], float(probabilities[index])

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this Purifier is closed; load it again")


def softmax(logits: Float) -> Float:
    """Probabilities ``(n,)`` of finite ``logits`` ``(n,)``; no logit is too large."""
    weights = np.exp(logits - logits.max())
    probabilities: Float = weights / weights.sum()
    return probabilities


class _Inference(NamedTuple):
    """What the engines made of one image."""

    label: str | None
    score: float | None
    probabilities: Float | None
    suspicion: float | None
    purified: Float | None  # (3, H, W)
    purify_s: float
    classify_s: float


_SKIPPED = _Inference(None, None, None, None, None, 0.0, 0.0)


def _check_arguments(votes: int, on_error: str) -> None:
    if isinstance(votes, bool) or not isinstance(votes, int) or votes < 1:
        raise UsageError(f"votes: expected an integer >= 1, got {votes!r}")
    if on_error not in get_args(OnError):
        raise UsageError(f"on_error: expected {' or '.join(get_args(OnError))}, got {on_error!r}")
