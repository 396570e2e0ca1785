"""Inference of one image under given draws: run the engines, check their outputs, average the votes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Literal, NamedTuple, get_args

import numpy as np

from sdk.arrays import FloatImage, Pixels
from sdk.backends import interface
from sdk.backends.interface import Backend, checked
from sdk.bundle import Bundle
from sdk.draw import Draw
from sdk.errors import BackendError, UsageError
from sdk.phases import run_in_phases
from sdk.preprocess import Preprocessor
from sdk.result import UNSURE, Result, Timings
from sdk.sources.roi import Roi
from sdk.suspicion import suspicion as suspicion_of

OnError = Literal["raise", "skip"]


class Task(NamedTuple):
    """A frame's draws, with the seconds that they took, and where it comes from, as the caller said."""

    draws: Sequence[Draw]
    draw_s: float
    frame_index: int | None
    source: str | None
    region: Roi | None = None


class Inference(NamedTuple):
    """Outputs of the engines for one image."""

    label: str | None
    score: float | None
    probabilities: FloatImage | None
    suspicion: float | None
    purified: FloatImage | None  # (3, H, W)
    purify_s: float
    classify_s: float


SKIPPED = Inference(
    label=None,
    score=None,
    probabilities=None,
    suspicion=None,
    purified=None,
    purify_s=0.0,
    classify_s=0.0,
)


class Rules(NamedTuple):
    """How results are made of inferences, as the Purifier's arguments say."""

    on_error: OnError
    min_score: float
    hide_draw: bool
    seeded: bool


class Ensemble:
    """A bundle's engines as one function from an image and its draws to probabilities.

    Threads may share it where the backend is ``concurrent``.

    Args:
        bundle: names the engines and labels; its calibration divides the logits.
        backend: the engines, loaded.
        rules: for the results.
        keep_purified: whether the first vote's purified image is returned.
        suspicion: whether the raw image is classified as well.
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, rules: Rules, *, keep_purified: bool, suspicion: bool
    ) -> None:
        self._bundle = bundle
        self._backend = backend
        self._rules = rules
        self._keep_purified = keep_purified
        self._suspicion = suspicion
        calibration = bundle.manifest.calibration
        self._temperature = 1.0 if calibration is None else calibration.temperature

    def decide(self, frame: Pixels, task: Task, preprocess: Preprocessor) -> Result:
        """One frame's Result; threads may call it at once, each with a Preprocessor.

        Raises:
            BackendError: an engine failed, and frames aren't skipped.
        """
        start = perf_counter()
        image = preprocess(frame)
        preprocess_s = perf_counter() - start
        inferred, error = self._or_skipped(1, lambda: [self.infer(image, task.draws)])
        return self._result(inferred[0], task, error, (preprocess_s, perf_counter() - start))

    def decide_together(
        self, frames: Sequence[Pixels], tasks: Sequence[Task], preprocess: Preprocessor
    ) -> list[Result]:
        """All frames' Results, where the backend ``runs_batches``.

        Raises:
            BackendError: an engine failed, and frames aren't skipped.
        """
        start = perf_counter()
        images = np.concatenate([preprocess(frame).copy() for frame in frames])  # it has one buffer
        preprocess_s = (perf_counter() - start) / len(frames)
        inferred, error = self._or_skipped(
            len(frames), lambda: self.infer_batch(images, [task.draws for task in tasks])
        )
        times_s = preprocess_s, (perf_counter() - start) / len(frames)
        return [self._result(one, task, error, times_s) for one, task in zip(inferred, tasks, strict=True)]

    def decide_several(
        self, frames: Sequence[Pixels], tasks: Sequence[Task], preprocess: Preprocessor
    ) -> list[Result]:
        """All frames' Results, on the CPU; threads may call it at once, each with a Preprocessor.

        Raises:
            BackendError: an engine failed, and frames aren't skipped.
        """
        start = perf_counter()
        images = [preprocess(frame).copy() for frame in frames]  # it has one buffer
        preprocess_s = (perf_counter() - start) / len(frames)
        several = run_in_phases(
            self._backend, images, [task.draws for task in tasks], want_purified=self._keep_purified
        )
        return [
            self._result_of_phases(image, task, found, preprocess_s)
            for image, task, found in zip(images, tasks, several, strict=True)
        ]

    def _result_of_phases(
        self,
        image: FloatImage,
        task: Task,
        found: list[interface.Inference] | BackendError,
        preprocess_s: float,
    ) -> Result:
        def merge() -> list[Inference]:
            if isinstance(found, BackendError):
                raise found
            return [self._merged(image, task.draws, found)]

        inferred, error = self._or_skipped(1, merge)
        total_s = preprocess_s + inferred[0].purify_s + inferred[0].classify_s
        return self._result(inferred[0], task, error, (preprocess_s, total_s))

    def infer(self, image: FloatImage, draws: Sequence[Draw]) -> Inference:
        """Purify and classify ``image`` once per draw; the mean probabilities, the first purified image."""
        return self._merged(image, draws, self._run(draws, image))

    def infer_batch(self, images: FloatImage, draws: Sequence[Sequence[Draw]]) -> list[Inference]:
        """``infer`` for several images, ``(N, 3, H, W)``, by engines that take several at a time.

        The backend must be one of those that ``runs_batches``.
        """
        assert isinstance(self._backend, interface.RunsBatches)
        votes = len(draws[0])
        flat = [draw for each in draws for draw in each]
        found = self._backend.run_batch(
            flat, np.repeat(images, votes, axis=0), want_purified=self._keep_purified
        )
        return [
            self._merged(images[i : i + 1], mine, found[i * votes : (i + 1) * votes])
            for i, mine in enumerate(draws)
        ]

    @property
    def runs_phases(self) -> bool:
        """Whether purified images are on the host between the engines, as on the CPU."""
        return not isinstance(self._backend, interface.RunsVotes)

    @property
    def runs_batches(self) -> bool:
        """Whether the backend has engines that take several images at a time."""
        return isinstance(self._backend, interface.RunsBatches) and self._backend.batch_size > 1

    def _merged(
        self, image: FloatImage, draws: Sequence[Draw], inferences: Iterable[interface.Inference]
    ) -> Inference:
        """The votes of one image as one."""
        first: FloatImage | None = None
        votes: list[FloatImage] = []
        purify_s = classify_s = 0.0
        for draw, inference in zip(draws, inferences, strict=True):
            if inference.purified is not None and first is None:
                first = inference.purified[0].copy()  # the backend may reuse its buffer
            votes.append(self._probabilities(draw.classifier, inference.logits))
            purify_s += inference.purify_s
            classify_s += inference.classify_s
        suspicion = None
        if self._suspicion:
            start = perf_counter()
            suspicion = self._distance(image, draws[0].classifier, votes)
            classify_s += perf_counter() - start
        probabilities = votes[0] if len(votes) == 1 else np.mean(votes, axis=0)
        label, score = self.best(probabilities)
        return Inference(
            label=label,
            score=score,
            probabilities=probabilities,
            suspicion=suspicion,
            purified=first,
            purify_s=purify_s,
            classify_s=classify_s,
        )

    def _run(self, draws: Sequence[Draw], image: FloatImage) -> Iterable[interface.Inference]:
        """Each draw's outputs; one by one where the backend reuses its buffers from draw to draw."""
        if isinstance(self._backend, interface.RunsVotes):
            return self._backend.run_votes(draws, image, want_purified=self._keep_purified)
        return (
            self._backend.run(draw, image, want_purified=self._keep_purified and not vote)
            for vote, draw in enumerate(draws)
        )

    def _or_skipped(
        self, count: int, work: Callable[[], list[Inference]]
    ) -> tuple[list[Inference], str | None]:
        """What ``work`` gives, or ``count`` skipped inferences and the reason."""
        try:
            return work(), None
        except BackendError as failure:
            if self._rules.on_error == "raise":
                raise
            error = "an engine failed" if self._rules.hide_draw else str(failure)  # which names the engine
            return [SKIPPED] * count, error

    def _result(
        self, inferred: Inference, task: Task, error: str | None, times_s: tuple[float, float]
    ) -> Result:
        """One image's Result; ``times_s`` are those of preprocessing, and of all but the draw."""
        rules, (preprocess_s, total_s) = self._rules, times_s
        accepted = inferred.score is not None and inferred.score >= rules.min_score
        return Result(
            label=inferred.label if accepted or inferred.label is None else UNSURE,
            score=inferred.score,
            probabilities=inferred.probabilities,
            draws=() if rules.hide_draw else tuple(task.draws),
            timings=Timings(
                preprocess_ms=preprocess_s * 1e3,
                draw_ms=task.draw_s * 1e3,
                purify_ms=inferred.purify_s * 1e3,
                classify_ms=inferred.classify_s * 1e3,
                total_ms=(total_s + task.draw_s) * 1e3,
            ),
            seeded=rules.seeded,
            error=error,
            frame_index=task.frame_index,
            source=task.source,
            suspicion=inferred.suspicion,
            _purified=inferred.purified,
            accepted=accepted,
            region=task.region,
        )

    def _distance(self, image: FloatImage, classifier: int, votes: Sequence[FloatImage]) -> float:
        raw = self._probabilities(classifier, self._backend.classify(classifier, image))
        return float(suspicion_of(raw, np.asarray(votes)))

    def _probabilities(self, classifier: int, logits: FloatImage) -> FloatImage:
        """A classifier's ``logits``, ``(1, n_classes)``, checked and as probabilities ``(n_classes,)``."""
        engine_id = self._bundle.manifest.classifiers[classifier].id
        return softmax(checked(logits, (1, len(self._bundle.labels)), engine_id)[0] / self._temperature)

    def undefended(self, image: FloatImage) -> FloatImage:
        """Mean probabilities ``(n_classes,)`` of all classifiers for an image that is not purified.

        Raises:
            BackendError: an engine failed.
        """
        n_classifiers = len(self._bundle.manifest.classifiers)
        each = [self._probabilities(j, self._backend.classify(j, image)) for j in range(n_classifiers)]
        mean: FloatImage = np.mean(each, axis=0)
        return mean

    def best(self, probabilities: FloatImage) -> tuple[str, float]:
        """The most probable class's label and probability."""
        index = int(probabilities.argmax())
        return self._bundle.labels[index], float(probabilities[index])


def softmax(logits: FloatImage) -> FloatImage:
    """Probabilities ``(n,)`` of finite ``logits`` ``(n,)``; no logit is too large."""
    weights = np.exp(logits - logits.max())
    probabilities: FloatImage = weights / weights.sum()
    return probabilities


def check_options(votes: int, on_error: str, min_score: float) -> None:
    """Check options of a Purifier.

    Raises:
        UsageError: names the option, and the values that it may have.
    """
    if isinstance(votes, bool) or not isinstance(votes, int) or votes < 1:
        raise UsageError(f"votes: expected an integer >= 1, got {votes!r}")
    if on_error not in get_args(OnError):
        raise UsageError(f"on_error: expected {' or '.join(get_args(OnError))}, got {on_error!r}")
    if isinstance(min_score, bool) or not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
        raise UsageError(f"min_score: expected a probability in [0, 1], got {min_score!r}")
