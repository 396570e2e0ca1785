"""One run of the ablation: trained, evaluated, and both resumed where a killed one stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import torch

from sdk.errors import UsageError
from sdk.files import write_atomically
from trainer import checkpoint
from trainer.ablation.arms import Variant
from trainer.config import Config
from trainer.data import Images, open_configured, split_validation
from trainer.data.attack_bank import digest_of
from trainer.loop.fit import fit
from trainer.loop.progress import Progress
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.targets import open_target
from trainer.robustness.evaluation import ladder, steps
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.evaluate import check_fit
from trainer.robustness.evaluation.rungs import Rungs
from trainer.robustness.evaluation.store import Store

BALL = Ball("linf", 8 / 255)
STEPS = 20
DRAWS = 10  # fresh ones that score each image; of a defence with a single draw, that one
SEED = 0  # of the attacks and draws, the same for every run, so that runs pair image by image
RUNGS = ("clean", "pgd-margin")

Tell = Callable[[str], None]
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Timing(msgspec.Struct, frozen=True):
    """How fast a run trained; of a resumed run, the last process's rate, on which the minutes are based."""

    images_per_s: float
    minutes: float


class Outcome(msgspec.Struct, frozen=True):
    """What a finished run came to.

    Attributes:
        arm, seed: which run.
        config: it was trained by.
        right: by rung, how many of ``draws`` fresh draws are right on each test image, from the first on.
        validation: accuracies on the held-out training images, of the weights that are evaluated.
        timing: of the training; None where a kill came between its last checkpoint and its last figures.
        evaluation_minutes: of attacks and judging.
        threads: CPU threads it ran on.
    """

    arm: str
    seed: int
    config: Config
    draws: int
    right: dict[str, list[int]]
    validation: dict[str, float]
    timing: Timing | None
    evaluation_minutes: float
    threads: int

    def chances(self, rung: str) -> torch.Tensor:
        """Per image, the chance that a draw is right, (N,) in [0, 1]."""
        return torch.tensor(self.right[rung], dtype=torch.float64) / self.draws


@dataclass(frozen=True)
class Task:
    """One run as a worker takes it.

    Attributes:
        variant: what is trained.
        folder: where its checkpoints and figures go.
        data: folder with the data set.
        images: test images it is evaluated on, from the first.
        threads: CPU threads.
    """

    variant: Variant
    folder: Path
    data: Path
    images: int
    threads: int

    def finished(self) -> Outcome | None:
        """What the run came to; None if it is not, or not on these images, finished.

        Raises:
            UsageError: the folder holds a run of another config.
        """
        outcome = _read(self.folder / "outcome.json", Outcome)
        if outcome is None:
            return None
        if outcome.config != self.variant.config:
            raise UsageError(
                f"--out {self.folder.parent}: {self.folder.name} holds a run of another config",
                hint="give that config, or another --out",
            )
        is_whole = all(len(outcome.right.get(rung, ())) == self.images for rung in RUNGS)
        return outcome if is_whole else None


def carry_out(task: Task, tell: Tell, heartbeat: Callable[[], None]) -> None:
    """Train and evaluate ``task``, and leave its ``Outcome`` in its folder.

    Args:
        tell: given a line for every event.
        heartbeat: called after every step of training and batch of the evaluation.

    Raises:
        EdgePurifyError: bad data, or a folder that can't be written or holds another run.
    """
    torch.set_num_threads(task.threads)
    best = _train(task, tell, heartbeat)
    tell("trained; attacking it")
    rungs = _evaluate(task, best, heartbeat)
    labels = first_test_images(task.variant, task.data, task.images).targets
    outcome = Outcome(
        arm=task.variant.arm.name,
        seed=task.variant.seed,
        config=task.variant.config,
        draws=len(rungs["clean"].scored),
        right={name: (rung.scored == labels).sum(0).tolist() for name, rung in rungs.items()},
        validation=checkpoint.load(best)["provenance"]["validation_accuracy"],
        timing=_read(task.folder / "timing.json", Timing),
        evaluation_minutes=sum(rung.seconds for rung in rungs.values()) / 60,
        threads=task.threads,
    )
    _write(task.folder / "outcome.json", outcome)


def _train(task: Task, tell: Tell, heartbeat: Callable[[], None]) -> Path:
    config, start = task.variant.config, time.perf_counter()
    images = open_configured(config.data, task.data, "train", image_size=config.model.image_size)
    training, validation = split_validation(images, config.data.validation)
    has_begun = (task.folder / "last.pt").exists()

    def report(progress: Progress) -> None:
        heartbeat()
        if not progress.validation:
            return
        seconds = progress.steps * config.optimizer.batch_size / progress.images_per_s
        _write(task.folder / "timing.json", Timing(progress.images_per_s, seconds / 60))
        figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in progress.validation.items())
        tell(
            f"epoch {progress.epoch}/{progress.epochs}, {progress.images_per_s:.0f} images/s, "
            f"{(time.perf_counter() - start) / 60:.1f} minutes; validation: {figures}"
        )

    tell("resumed" if has_begun else "started")
    return fit(config, training, validation, task.folder, resume=has_begun, report=report)


def _evaluate(task: Task, best: Path, heartbeat: Callable[[], None]) -> dict[str, steps.Outcome]:
    """The rungs, climbed, by name."""
    with open_target(best, trust_code=True) as target:
        images = first_test_images(task.variant, task.data, task.images)
        check_fit(target, images)
        draws = DRAWS if target.n_draws > 1 else 1
        n_passes = target.twin.n_purifiers  # each purifier once: the exact mean of the bank
        budget = Budget("ablation", RUNGS, task.images, draws=draws, steps=STEPS, samples=n_passes)
        key = (target.digest, digest_of(images), images.targets.tolist(), budget, BALL, SEED)
        store = Store(task.folder / "evaluation", key)
        climber = ladder.Climber(
            images, target.judge, draws, seed=SEED, store=store, on_progress=lambda *_: heartbeat()
        )
        rungs, _ = Rungs(target, budget, BALL, len(images)).steps()
        return climber.ladder(rungs)


def first_test_images(variant: Variant, data: Path, count: int) -> Images:
    """The first ``count`` test images of the variant's data set.

    Raises:
        UsageError: there are fewer.
        DataError: they are absent or damaged.
    """
    config = variant.config
    images = open_configured(config.data, data, "test", image_size=config.model.image_size)
    if count > len(images):
        raise UsageError(f"--images {count}: {config.data.name} in {data} has {len(images)} test images")
    return images[slice(0, count)]


def _read(path: Path, kind: type[_Struct]) -> _Struct | None:
    """What ``_write`` wrote; None where there is nothing, or another version's."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write(path: Path, content: msgspec.Struct) -> None:
    """As JSON, atomically: a kill leaves the old file or the new one."""
    try:
        write_atomically(path, msgspec.json.encode(content))
    except OSError as error:
        raise checkpoint.CheckpointError(
            f"{path}: can't be written: {error.strerror}; free some space, and the same command goes on"
        ) from None
