"""``edge-train bank``: perturbations of all training images, as an attack bank."""

from __future__ import annotations

from pathlib import Path

import click

from sdk.host.terminal import echo
from trainer.cli.console import bars


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write, .npz.")
@click.option("--eps", default="8/255", show_default=True, help="Size of the perturbation; white is 1.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Of PGD.")
@click.option("--trust-code", is_flag=True, help="Import the classifier code that CHECKPOINT names.")
def bank(checkpoint: Path, data: Path, out: Path, eps: str, steps: int, trust_code: bool) -> None:
    """Attack every training image once, through CHECKPOINT's classifier alone, and keep the perturbations.

    MAEP trains on them: its config names the file as recipe.bank.
    """
    from trainer.checkpoint import load_defence
    from trainer.cli.evaluation import parse_eps
    from trainer.data import open_as_trained
    from trainer.data.attack_bank import check_writable, in_memory, make

    check_writable(out)  # before the work
    loaded = load_defence(checkpoint, trust_code=trust_code)
    images = in_memory(
        open_as_trained(loaded.provenance, data, "train", image_size=loaded.image_size, labels=loaded.labels)
    )
    with bars() as on_progress:
        made = make(
            loaded.defence,
            images,
            eps=parse_eps(eps),
            steps=steps,
            on_batch=lambda done: on_progress("attacked", done, len(images)),
        )
    made.save(out)
    echo(f"wrote {out}")
