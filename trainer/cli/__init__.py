"""``edge-train``: fetch a data set, fit a config, time it, ablate it, measure a checkpoint or a bundle."""

from __future__ import annotations

import click

from sdk.cli.app import App
from trainer.cli.ablate import ablate
from trainer.cli.bank import bank
from trainer.cli.benchmark import benchmark
from trainer.cli.calibrate import calibrate
from trainer.cli.data import data
from trainer.cli.evaluate import evaluate
from trainer.cli.fit import fit
from trainer.cli.render import render
from trainer.cli.soften import soften


@click.group(cls=App, name="edge-train", torchrun=True)
@click.version_option(package_name="edge-purify")
def main() -> None:
    """Train purifiers and classifiers, and measure their robustness."""


for command in (fit, benchmark, data, bank, soften, calibrate, ablate, evaluate, render):
    main.add_command(command)
