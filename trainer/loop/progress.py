"""Progress of a run: step, throughput, time left, averaged terms and validation figures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from torch import Tensor

from trainer.config import Optimizer


@dataclass
class Progress:
    """Passed to the reporter after every step and every epoch."""

    step: int
    steps: int
    epochs: int
    images_per_s: float
    seconds_left: float
    terms: dict[str, float]  #: the loss's terms, averaged since the epoch began or the run was resumed
    validation: dict[str, float] = field(default_factory=dict)  #: figures, at an epoch's end
    pictures: Tensor | None = None  #: (3, n, 3, H, W) at an epoch's end: images, attacked, then purified

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step * self.epochs // self.steps


class Clock:
    """Times the steps of this process and averages an epoch's terms."""

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self.optimizer = optimizer
        self.steps = steps
        self.start = time.perf_counter()
        self.n_timed = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Forget the last epoch's terms."""
        self.totals: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def tick(self, step: int, terms: dict[str, float]) -> Progress:
        """After a step; a term that a step leaves out is averaged over the steps that have it."""
        self.n_timed += 1
        for name, value in terms.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        return self._progress(step, {})

    def end_epoch(self, step: int, figures: dict[str, float], pictures: Tensor) -> Progress:
        """After an epoch and its validation."""
        return replace(self._progress(step, figures), pictures=pictures)

    def _progress(self, step: int, figures: dict[str, float]) -> Progress:
        seconds_per_step = (time.perf_counter() - self.start) / max(self.n_timed, 1)
        return Progress(
            step=step,
            steps=self.steps,
            epochs=self.optimizer.epochs,
            images_per_s=self.optimizer.batch_size / seconds_per_step,
            seconds_left=seconds_per_step * (self.steps - step),
            terms={name: total / self.counts[name] for name, total in self.totals.items()},
            validation=figures,
        )
