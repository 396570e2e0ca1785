"""``edge-train``: fetch a data set, fit a config, measure a checkpoint or a bundle."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.errors import EdgePurifyError, UsageError

if TYPE_CHECKING:
    from trainer.data.fetch import OnProgress
    from trainer.progress import Progress


class _Group(click.Group):
    """Prints the project's errors as one line, with their exit codes."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EdgePurifyError as error:
            click.echo(f"edge-train: error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group)
@click.version_option(package_name="edge-purify")
def main() -> None:
    """Train purifiers and classifiers, and measure their robustness."""


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for checkpoints; runs/NAME by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, exactly where it stopped.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key, as section.key.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all by default.")
def fit(
    config: Path, data: Path, out: Path | None, resume: bool, overrides: tuple[str, ...], threads: int | None
) -> None:
    """Train CONFIG, a TOML file; those of this project lie in trainer/configs/."""
    from trainer.config import load

    loaded = load(config, overrides)  # before the heavy imports: a mistake in it is told at once
    import torch

    from trainer.banks import split_for
    from trainer.board import Board
    from trainer.data import open_dataset
    from trainer.fit import fit as run

    if threads:
        torch.set_num_threads(threads)
    images = open_dataset(loaded.data.name, data, "train", image_size=loaded.model.image_size)
    training, validation = split_for(loaded.recipe, images, loaded.data.validation)
    out = out or Path("runs") / loaded.name
    line, board = _Line(), Board(out / "tensorboard")

    def report(progress: Progress) -> None:
        line(progress)
        board(progress)

    best = run(loaded, training, validation, out, resume=resume, report=report)
    click.echo(f"wrote {best}")


@main.command()
@click.argument("name", type=click.Choice(["cifar10", "svhn", "imagenet"]))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder to put the data set into.")
@click.option("--url", metavar="ADDRESS", help="Mirror: the address that the published files lie under.")
def data(name: str, to: Path, url: str | None) -> None:
    """Fetch the data set NAME, unless it is there, and check every image of it.

    A download that was cut goes on where it stopped.  Without a network, put the published file into the
    folder and run this.  'imagenet' stands for any pictures in folders imagenet/train/CLASS and
    imagenet/val/CLASS; they are checked, not fetched.
    """
    from trainer.data import check, fetch

    with _bars() as on_progress:
        fetch(name, to, url=url, on_progress=on_progress)
        found = check(name, to, on_progress=on_progress)
    counts = " and ".join(f"{count} {split} images" for split, count in found.images.items())
    click.echo(f"{name} in {to}: {counts} of {found.n_classes} classes, all readable")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write, .npz.")
@click.option("--eps", default="8/255", show_default=True, help="Size of the perturbation; white is 1.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Of PGD.")
def bank(checkpoint: Path, data: Path, out: Path, eps: str, steps: int) -> None:
    """Attack every training image once, through CHECKPOINT's classifier alone, and keep the perturbations.

    MAEP trains on them: its config names the file as recipe.bank.
    """
    from trainer.banks import make
    from trainer.checkpoint import load_defence
    from trainer.data import DataError, Images, open_dataset
    from trainer.robustness.command import parse_eps

    loaded = load_defence(checkpoint)
    name = loaded.config["data"]["name"]
    images = open_dataset(name, data, "train", image_size=loaded.image_size)
    if not isinstance(images, Images):
        raise DataError(f"{name}: a bank is for images in memory; leave recipe.bank out for folders")
    with _bars() as on_progress:
        made = make(
            loaded.defence,
            images,
            eps=parse_eps(eps),
            steps=steps,
            on_batch=lambda done: on_progress("attacked", done, len(images)),
        )
    made.save(out)
    click.echo(f"wrote {out}")


@main.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--dataset", help="Its name; by default the one that TARGET was trained on.")
@click.option(
    "--images", type=click.IntRange(min=1), help="Test images, from the first; by default the budget's."
)
@click.option("--draws", type=click.IntRange(min=1), help="Per image; by default the budget's.")
@click.option(
    "--budget",
    type=click.Choice(["clean", "quick", "standard", "paper"]),
    default="quick",
    show_default=True,
    help="How much to attack.",
)
@click.option("--norm", type=click.Choice(["linf", "l2"]), default="linf", show_default=True)
@click.option("--eps", default="8/255", show_default=True, help="Size of the perturbation; white is 1.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of attacks and draws."
)
@click.option("--against", type=click.Path(path_type=Path), help="Another one, on the same images.")
@click.option("--backend", default="auto", show_default=True, help="What runs a bundle's engines.")
@click.option("--precision", default="auto", show_default=True, help="The engines' precision.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report as JSON.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for JSON, Markdown and plots.")
@click.option("--into-bundle", is_flag=True, help="Add the figures to TARGET's bundle.json and model card.")
@click.option("--record", type=click.Path(path_type=Path), help="Keep the adversarial images for --gate.")
@click.option(
    "--gate", type=click.Path(path_type=Path), help="Judge what --record kept; 3 if a point is lost."
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/evaluate"), show_default=True,
              help="Where finished batches are kept, so that a killed evaluation goes on.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the attacks; all by default.")
def evaluate(
    target: Path,
    data: Path | None,
    gate: Path | None,
    json_path: Path | None,
    report: Path | None,
    record: Path | None,
    into_bundle: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Measure what attacks leave of TARGET, a bundle's folder or a checkpoint.

    A bundle is attacked through its twin and judged on its engines.  The figure to quote, the per-image
    worst, comes first, and a warning before it where an attack may have been too weak.
    """
    import torch

    from trainer.robustness import command
    from trainer.robustness.markdown import render

    if threads:
        torch.set_num_threads(threads)
    with _bars() as on_progress:
        if gate is not None:
            runtime = {"backend": options["backend"], "precision": options["precision"]}
            changes = command.hold_gate(gate, target, on_progress=on_progress, **runtime)
            text = "\n".join(f"{name:<16} {change:+.1f} points" for name, change in changes.items())
        elif data is None:
            raise UsageError("--data: missing; name the folder with the data set")
        else:
            request = command.Request(target=target, data=data, **options)
            outputs = command.Outputs(json_path, report, record, into_bundle)
            text = render(command.run(request, outputs, on_progress))
    click.echo(text)


@contextmanager
def _bars() -> Iterator[OnProgress]:
    """A bar on standard error for each thing that is being done, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    console = Console(stderr=True)
    tasks: dict[str, TaskID] = {}
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:

        def update(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield update


class _Line:
    """Progress as one line: rewritten in place on a terminal, every half minute elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.shown = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        at_end = bool(progress.validation)
        if not at_end and now - self.shown < (0.5 if self.terminal else 30):
            return
        self.shown = now
        shown = progress.validation or progress.terms
        figures = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        left = timedelta(seconds=round(progress.seconds_left))
        text = (
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
            f"{progress.images_per_s:.0f} images/s  {left} left  {'validation: ' if at_end else ''}{figures}"
        )
        click.echo(f"\r\x1b[2K{text}" if self.terminal else text, err=True, nl=at_end or not self.terminal)


if __name__ == "__main__":
    main()
