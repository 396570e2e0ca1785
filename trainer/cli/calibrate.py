"""``edge-train calibrate``: a temperature for a bundle's scores."""

from __future__ import annotations

from pathlib import Path

import click

from sdk.host.terminal import echo


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--backend", default="auto", show_default=True, help="What runs the engines.")
@click.option("--precision", default="fp32", show_default=True, help="The engines' precision.")
def calibrate(bundle: Path, data: Path, backend: str, precision: str) -> None:
    """Give BUNDLE's scores a temperature, so that they mean what they say.

    It is fitted on the images that training held out, and written into bundle.json and the model card.
    """
    from trainer.robustness.results.calibration import calibrate as run

    echo(str(run(bundle, data=data, backend=backend, precision=precision)))
