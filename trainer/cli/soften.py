"""``edge-train soften``: a teacher's class probabilities as training targets."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.cli.console import bars


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--share", type=click.FloatRange(0, 1), required=True, help="Weight of CHECKPOINT's answer.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write, .npz.")
@click.option("--trust-code", is_flag=True, help="Import the classifier code that CHECKPOINT names.")
def soften(checkpoint: Path, data: Path, share: float, out: Path, trust_code: bool) -> None:
    """Mix CHECKPOINT's class probabilities for its own training images with their labels.

    A config trains on them by recipe.soft_targets. They belong to the data set and the split that CHECKPOINT
    was trained with; its data.validation images get none.
    """
    import msgspec

    from trainer.checkpoint import load_defence
    from trainer.config import Data
    from trainer.data import open_configured, split_validation
    from trainer.data.soft_targets import check_writable, make

    check_writable(out)  # before the work
    loaded = load_defence(checkpoint, trust_code=trust_code)
    section = msgspec.convert(loaded.config["data"], Data)
    images = open_configured(section, data, "train", image_size=loaded.image_size)
    training, _ = split_validation(images, section.validation)
    with bars() as on_progress:
        made = make(
            loaded,
            checkpoint,
            training,
            share=share,
            on_batch=lambda done: on_progress("predicted", done, len(training)),
        )
    made.save(out)
    leads = float((made.targets.argmax(1) == training.targets).float().mean())
    click.echo(f"wrote {out}: {len(training)} targets, the true class leads in {leads:.1%}")
