"""``edge-train ablate``: train a REN without each of its mechanisms, and compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdk.errors import UsageError
from sdk.files import write_output
from sdk.host.terminal import echo

if TYPE_CHECKING:
    from trainer.ablation.arms import Variant
    from trainer.ablation.single import Outcome


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Runs of each arm.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads a run."
)
@click.option("--images", type=click.IntRange(min=2), default=2000, show_default=True,
              help="Test images to evaluate on, from the first.")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path), help="Markdown; OUT/ablation.md by default.")
def ablate(
    config: Path,
    data: Path,
    out: Path,
    seeds: int,
    jobs: int,
    threads: int,
    images: int,
    report: Path | None,
) -> None:
    """Train CONFIG, a REN, as it is and without each of its mechanisms, and compare what attacks leave.

    A run that is finished is not repeated; one that was killed goes on where it stopped. Processes that
    torchrun starts share the runs, on one machine or, where --out is on a common file system, several.
    """
    from trainer.ablation.arms import plan

    variants = plan(config, seeds=seeds)  # before the heavy imports: a mistake in it is told at once
    from trainer.ablation.single import Task, first_test_images
    from trainer.ablation.workers import carry_out_all
    from trainer.team import open_team

    report = report or out / "ablation.md"
    first_test_images(variants[0], data, images)  # a mistake in these is told before hours of training
    tasks = [Task(variant, out / variant.name, data, images, threads) for variant in variants]
    _make_folder(out, f"--out {out}")
    _make_folder(report.parent, f"--report {report}")
    with open_team() as team:
        carry_out_all(tasks, jobs=jobs, tell=lambda line: echo(line, err=True), team=team)
    if team.rank:
        return
    shown = config.name if config.is_absolute() else config  # a report is no place for a machine's paths
    command = f"edge-train ablate {shown} --data DATA --out RUNS --seeds {seeds} --images {images}"
    _write_report(report, variants, [task.finished() for task in tasks], command)
    echo(f"wrote {report}")


def _write_report(
    path: Path, variants: Sequence[Variant], outcomes: Sequence[Outcome | None], command: str
) -> None:
    from trainer.ablation.report import render

    text = render(variants, [outcome for outcome in outcomes if outcome is not None], command=command)
    try:
        write_output(path, text)
    except OSError as error:
        raise UsageError(f"--report {path}: can't be written: {error.strerror}") from None


def _make_folder(folder: Path, where: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{where}: its folder can't be made: {error.strerror}") from None
