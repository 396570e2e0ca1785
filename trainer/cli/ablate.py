"""What ``edge-train ablate`` does between its options and its output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdk.errors import UsageError
from sdk.files import write_output
from trainer.ablation.arms import Variant
from trainer.ablation.report import render
from trainer.ablation.single import Task, Tell, first_test_images
from trainer.ablation.workers import carry_out_all


def ablate(
    variants: Sequence[Variant],
    *,
    config: Path,
    data: Path,
    out: Path,
    images: int,
    jobs: int,
    threads: int,
    report: Path,
    tell: Tell,
) -> None:
    """Train and evaluate what is not finished of ``variants`` in ``out``, and write ``report``.

    Raises:
        EdgePurifyError: whatever is wrong with the options, the data or a run.
    """
    first_test_images(variants[0], data, images)  # a mistake in these is told before hours of training
    tasks = [Task(variant, out / variant.name, data, images, threads) for variant in variants]
    _make_folder(out, f"--out {out}")
    _make_folder(report.parent, f"--report {report}")
    carry_out_all(tasks, jobs=jobs, tell=tell)
    outcomes = [outcome for task in tasks if (outcome := task.finished()) is not None]
    n_seeds = len({variant.seed for variant in variants})
    shown = config.name if config.is_absolute() else config  # a report is no place for a machine's paths
    command = f"edge-train ablate {shown} --data DATA --out RUNS --seeds {n_seeds} --images {images}"
    text = render(variants, outcomes, command=command)
    try:
        write_output(report, text)
    except OSError as error:
        raise UsageError(f"--report {report}: can't be written: {error.strerror}") from None


def _make_folder(folder: Path, where: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{where}: its folder can't be made: {error.strerror}") from None
