"""``edge-train data``: fetch and check a data set."""

from __future__ import annotations

from pathlib import Path

import click

from sdk.host.terminal import echo
from trainer.cli.console import bars


@click.command()
@click.argument("name", type=click.Choice(["cifar10", "svhn", "gtsrb", "imagenet", "folders"]))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder to put the data set into.")
@click.option("--url", metavar="ADDRESS", help="Mirror: the address that the published files lie under.")
def data(name: str, to: Path, url: str | None) -> None:
    """Fetch the data set NAME, unless it is there, and check every image of it.

    A download that was cut goes on where it stopped. Without a network, put the published file into the
    folder and run this. The others are checked, not fetched; 'folders' and 'imagenet' stand for any pictures
    in folders train/CLASS and test/CLASS (or val/CLASS), or CLASS alone.
    """
    from trainer.data import check, fetch

    with bars() as on_progress:
        fetch(name, to, url=url, on_progress=on_progress)
        found = check(name, to, on_progress=on_progress)
    counts = " and ".join(f"{count} {split} images" for split, count in found.images.items())
    echo(f"{name} in {to}: {counts} of {found.n_classes} classes, all readable")
