"""The command ``edge-protect``: from a classifier and pictures to a measured bundle."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from export.cli.classifier_options import classifier_from, classifier_options
from export.cli.console import require
from export.cli.options import TOOLS
from sdk.cli.app import Single, Stopped
from sdk.errors import UsageError
from sdk.host.terminal import echo

if TYPE_CHECKING:
    from export.protect.request import Request

NEEDED = (*TOOLS, "lightning_fabric", "matplotlib")
SHORTEST_H, LONGEST_H = 0.001, 1000.0


@click.command(cls=Single, name="edge-protect")
@click.version_option(package_name="edge-purify")
@click.argument("classifier", type=click.Path(path_type=Path))
@click.option(
    "--pictures", required=True, type=click.Path(path_type=Path),
    help="Folder of pictures: CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg.",
)  # fmt: skip
@classifier_options
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The bundle's folder, not there yet."
)
@click.option(
    "--family", type=click.Choice(["ren", "maep"]),
    help="Of the purifier.  [default: maep before a classifier that stays, otherwise ren]",
)  # fmt: skip
@click.option(
    "--adapt", type=click.Choice(["none", "classifier"]), default="none", show_default=True,
    help="Train the purifier alone, or the classifier's weights too.",
)  # fmt: skip
@click.option("--hours", type=float, default=2.0, show_default=True, help="That all of it may take here.")
@click.option("--eps", default="8/255", show_default=True, help="Size of the attacks, linf; white is 1.")
@click.option(
    "--split", type=float, default=0.8, show_default=True,
    help="Share of the pictures to train on, where no folders train and test split them.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--images", type=click.IntRange(min=1), default=128, show_default=True, help="Test pictures to attack."
)
@click.option("--name", help="The bundle's name.  [default: that of CLASSIFIER's file]")
@click.option(
    "--work", type=click.Path(path_type=Path),
    help="Folder for what is finished: the same command goes on.  [default: CLASSIFIER.work beside OUT]",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all by default.")
def main(
    classifier: Path,
    pictures: Path,
    out: Path,
    family: Literal["ren", "maep"] | None,
    adapt: Literal["none", "classifier"],
    hours: float,
    eps: str,
    split: float,
    seed: int,
    images: int,
    name: str | None,
    work: Path | None,
    threads: int | None,
    **of_the_classifier: str | Path | None,
) -> None:
    """Protect CLASSIFIER, an ONNX file, on your own pictures: train a purifier for it, attack both, export.

    The purifier is trained through the classifier, first against attacks on the classifier alone, then
    against attacks through both. The bundle in OUT has every engine, what the attacks left, and a card. A
    command that was stopped goes on when it is given again.
    """
    if not SHORTEST_H <= hours <= LONGEST_H:
        raise UsageError(f"--hours {hours:g}: expected {SHORTEST_H:g} to {LONGEST_H:g}")
    if not 0 < split < 1:
        raise UsageError(f"--split {split:g}: expected a share above 0 and below 1, like 0.8")
    require("protect", *NEEDED)
    import torch

    from export.protect.request import Request
    from trainer.cli.evaluation import parse_eps

    bound = parse_eps(eps)
    if not 0 < bound <= 127 / 255:
        raise UsageError(f"--eps {eps}: expected a bound above 0 and up to 127/255")
    if threads:
        torch.set_num_threads(threads)
    request = Request(
        classifier=classifier_from(classifier, of_the_classifier),
        pictures=pictures,
        out=out,
        work=work or out.parent / f"{classifier.stem}.work",
        name=name or classifier.stem,
        family=family,
        adapt=adapt,
        hours=hours,
        eps=bound,
        split=split,
        seed=seed,
        images=images,
    )
    _run(request)


def _run(request: Request) -> None:
    from export.protect import outcome
    from export.protect.steps import Run, Voice
    from trainer.cli.console import Line, bars

    begun = time.monotonic()
    run = Run(request, Voice(_say, Line(), bars))
    try:
        outcomes = run.outcomes()
    except KeyboardInterrupt:
        raise Stopped(f"the same command goes on from what is in {run.folder}") from None
    echo(outcome.table(outcomes))
    for remark in (*outcome.remarks(outcomes[0]), *run.work.state.notes):
        echo(f"- {remark}")
    echo(f"wrote {request.out} ({(time.monotonic() - begun) / 60:.0f} min)")


def _say(text: str) -> None:
    """A line of its own on standard error, also after a line of progress that is rewritten in place."""
    if sys.stderr.isatty():
        echo(err=True)
    echo(f"edge-protect: {text}", err=True)
