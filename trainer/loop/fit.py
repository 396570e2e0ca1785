"""Training loop: each epoch is trained, validated and saved; resuming is exact, for any number of processes.

A run is a function of its config and data, so one that was killed and resumed equals an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdk.errors import UsageError
from trainer import checkpoint
from trainer.config import AdversarialRecipe, Config
from trainer.data import DataSet
from trainer.data.soft_targets import OpenedTargets, open_soft_targets
from trainer.loop.fabric import open_fabric
from trainer.loop.progress import Clock, Progress
from trainer.loop.run import Run
from trainer.loop.validation import check_frozen_classifier

Report = Callable[[Progress], None]


def _silent(progress: Progress) -> None:
    """Reports nothing."""


def fit(
    config: Config,
    training: DataSet,
    validation: DataSet,
    out: Path,
    *,
    resume: bool = False,
    report: Report = _silent,
) -> Path:
    """Train ``config``; ``out`` gets ``last.pt``, and ``best.pt`` by the averaged weights' figures.

    Returns:
        The path of ``best.pt``.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is False, or its config or images are others; or the
            config's numbers don't fit the images or the number of processes.
        TrainingError: the loss diverged, or the defence collapsed again.
        CheckpointError: a checkpoint can't be read or written.
        DataError: the recipe's soft targets can't be read or are of other images.
    """
    fabric = open_fabric(config.optimizer.precision)
    fabric.launch()
    check_fit(config, training, fabric.world_size)
    _prepare_folder(out, resume)
    run = Run(config, fabric, training, out, soft_targets=_soft_targets(config, training))
    if resume:
        run.load_state_dict(checkpoint.load(out / "last.pt"))
    else:
        run.begin()
        if (
            config.freezes_classifier and getattr(config.recipe, "bank", None) is None
        ):  # else they are attacked
            check_frozen_classifier(run.defence, validation, config.seed)
    if not fabric.is_global_zero:
        report = _silent
    clock = Clock(config.optimizer, run.steps)
    while run.step < run.steps:
        for progress in run.train_epoch(clock):
            report(progress)
        figures = run.validate(validation)
        if run.has_collapsed(figures):
            run.roll_back()
        else:
            run.save(figures)
        report(clock.end_epoch(run.step, figures, run.pictures(validation)))
    return out / "best.pt"


def check_fit(config: Config, training: DataSet, n_processes: int) -> None:
    """That the config's numbers fit the data and the processes."""
    if len(training.labels) != config.model.n_classes:
        raise UsageError(
            f"model.n_classes: expected {len(training.labels)}, the classes of the training images, "
            f"got {config.model.n_classes}"
        )
    if len(training) < config.optimizer.batch_size:
        raise UsageError(
            f"optimizer.batch_size: expected at most {len(training)}, the training images, "
            f"got {config.optimizer.batch_size}"
        )
    parts = n_processes * config.optimizer.micro_batches
    if config.optimizer.batch_size % parts:  # parts of unequal size would have an equal say
        raise UsageError(
            f"optimizer.batch_size: expected a multiple of {parts}, the processes times "
            f"optimizer.micro_batches, got {config.optimizer.batch_size}"
        )


def _soft_targets(config: Config, training: DataSet) -> OpenedTargets | None:
    path = config.recipe.soft_targets if isinstance(config.recipe, AdversarialRecipe) else None
    return open_soft_targets(Path(path), training) if path is not None else None


def _prepare_folder(out: Path, resume: bool) -> None:
    if not resume and (out / "last.pt").exists():
        raise UsageError(
            f"--out {out}: it holds a run", hint="add --resume to go on with it, or give another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: can't be made: {error.strerror}") from None
