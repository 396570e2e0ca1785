"""``edge-train fit``: train a config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdk.cli.app import Stopped, is_first_process
from sdk.host.terminal import echo
from trainer.cli.console import Line

if TYPE_CHECKING:
    from trainer.loop.progress import Progress


@click.command()
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

    from trainer.data import open_configured
    from trainer.data.attack_bank import split_for
    from trainer.loop.fit import fit as run
    from trainer.loop.tensorboard import Board

    if threads:
        torch.set_num_threads(threads)
    images = open_configured(loaded.data, data, "train", image_size=loaded.model.image_size)
    training, validation = split_for(loaded.recipe, images, loaded.data.validation)
    out = out or Path("runs") / loaded.name
    line = Line()
    with Board(out / "tensorboard") as board:

        def report(progress: Progress) -> None:
            line(progress)
            board(progress)

        try:
            best = run(loaded, training, validation, out, resume=resume, report=report)
        except KeyboardInterrupt:
            raise Stopped(_how_to_go_on(out)) from None
    if is_first_process():
        echo(f"wrote {best}")


def _how_to_go_on(out: Path) -> str:
    """What a stopped run in ``out`` left; a save is whole or not there, so the last one is what there is."""
    from trainer import checkpoint

    last = out / "last.pt"
    if not last.exists():
        return f"nothing was saved yet, so nothing of {out} is left to go on from"
    step = checkpoint.load(last)["position"]["step"]
    return f"with --resume the run goes on from {last}, step {step}"
