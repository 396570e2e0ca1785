"""``edge-purify batch`` and ``edge-purify serve``: many pictures, by Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sdk.choices import BACKENDS, PRECISIONS
from sdk.host.terminal import echo

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SETUP = (
    click.option("--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]"),
    click.option("--require-signature", metavar="KEY",
                 help="Refuse a bundle that this Ed25519 public key (PEM) has not signed."),
    click.option("--backend", default="auto", show_default=True, type=click.Choice(BACKENDS),
                 help="What runs the engines."),
    click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
                 help="Which of the bundle's engines."),
    click.option("--votes", metavar="N", type=click.IntRange(1, 1000), default=1, show_default=True,
                 help="Draws per picture, averaged."),
    click.option("--suspicion", is_flag=True, help="Say how far raw and purified decisions disagree."),
    click.option("--min-score", metavar="P", type=click.FloatRange(0, 1), default=0.0, show_default=True,
                 help="Say 'unsure' where the best class has less."),
    click.option("--cluster", metavar="ADDRESS",
                 help="Ray cluster to work on, 'auto' for this machine's.  [default: start one here]"),
)  # fmt: skip


def _with_setup(command: _Command) -> _Command:
    for option in reversed(_SETUP):
        command = option(command)
    return command


def _setup(options: dict[str, Any], *, hide_draw: bool) -> Any:
    from sdk.fleet.setup import Setup

    names = ("bundle", "backend", "precision", "votes", "suspicion", "min_score")
    return Setup(
        **{name: options[name] for name in names},
        hide_draw=hide_draw,
        public_key=options["require_signature"],
    )


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.argument("output")
@_with_setup
@click.option("--column", default="image", show_default=True, help="Of encoded pictures in Parquet files.")
@click.option("--workers", metavar="N", type=click.IntRange(min=1),
              help="Purifiers at work, each on one CPU.  [default: as many as there are CPUs]")  # fmt: skip
@click.option("--hide-draw", is_flag=True, help="Leave the engines drawn out of the output.")
def batch(
    inputs: tuple[str, ...], output: str, column: str, workers: int | None, hide_draw: bool, **options: Any
) -> None:
    """Purify and classify every picture of INPUT into the Parquet files of the folder OUTPUT.

    INPUT is a folder with all below it, a picture, a 'glob', a Parquet file of encoded pictures, or the
    address of such, as s3://bucket/folder. A batch that was stopped goes on with the pictures that have no
    record in OUTPUT; a picture that can't be read has a record that says why.
    """
    from sdk.cli.console import Progress
    from sdk.fleet import cluster

    cluster.require("pyarrow")
    from sdk.fleet.batch import Job, Summary, run
    from sdk.fleet.parts import require_folder
    from sdk.sinks.record import Record

    setup = _setup(options, hide_draw=hide_draw)
    job = Job(inputs, require_folder(output), setup, column, workers, options["cluster"])
    bar: list[Progress] = []

    def on_start(summary: Summary) -> None:
        for reason in list(summary.left_out.values())[:10]:
            echo(f"edge-purify: left out: {reason}", err=True)
        bar.append(Progress(output, summary.pictures - summary.before))
        bar[0].__enter__()

    def on_record(record: Record) -> None:
        bar[0].advance(record.label or "no label")

    try:
        summary = run(job, on_start=on_start, on_record=on_record)
    finally:
        if bar:
            bar[0].close()
    _show(summary, Path(output))


def _show(summary: Any, output: Path) -> None:
    for error in summary.errors:
        echo(f"edge-purify: {error}", err=True)
    if summary.failed > len(summary.errors):
        echo(f"edge-purify: and {summary.failed - len(summary.errors)} more without a label", err=True)
    before = f", {summary.before} were on record" if summary.before else ""
    unsure = f", {summary.unsure} unsure" if summary.unsure else ""
    left_out = f", {len(summary.left_out)} files left out" if summary.left_out else ""
    rate = f", {summary.done / summary.seconds:.0f} pictures/s" if summary.done and summary.seconds else ""
    echo(
        f"wrote {summary.done} records to {output}: {summary.labelled} with a label{unsure}, "
        f"{summary.failed} without{before}{left_out}{rate}"
    )


@click.command()
@_with_setup
@click.option("--serve", "address", metavar="[HOST:]PORT", default="8000", show_default=True,
              help="Where to listen; without HOST, for this machine alone.")  # fmt: skip
@click.option("--replicas", metavar="N|LEAST:MOST", default="1", show_default=True,
              help="Purifiers, each on one CPU; between the two, as many as the load needs.")  # fmt: skip
@click.option("--max-bytes", metavar="N", type=click.IntRange(1024, 1 << 30), default=8 << 20,
              show_default=True, help="Of a picture as it is sent.")  # fmt: skip
@click.option("--max-pending", metavar="N", type=click.IntRange(1, 10_000), default=64, show_default=True,
              help="Requests at a time; more get the answer 429.")  # fmt: skip
@click.option("--show-draw", is_flag=True, help="Tell clients the engines drawn, which helps an attacker.")
def serve(
    address: str, replicas: str, max_bytes: int, max_pending: int, show_draw: bool, **options: Any
) -> None:
    """Purify and classify pictures that come over HTTP: for cameras that can't run engines.

    Every request needs the token, the one in $EDGE_PURIFY_TOKEN or a fresh one that is printed:

    \b
      curl -H "Authorization: Bearer TOKEN" --data-binary @frame.jpg http://127.0.0.1:8000/purify
    """
    from sdk.fleet import cluster

    cluster.require("aiohttp", "prometheus_client")
    from sdk.fleet.service import Offer, parse_replicas
    from sdk.fleet.service import serve as run
    from sdk.sinks.preview.address import Address

    offer = Offer(
        Address.parse(address),
        _setup(options, hide_draw=not show_draw),
        parse_replicas(replicas),
        max_bytes,
        max_pending,
        options["cluster"],
    )
    run(offer, on_open=_say_where)


def _say_where(url: str, token: str | None) -> None:
    said = "the token in $EDGE_PURIFY_TOKEN" if token is None else f"token {token}"
    echo(f"edge-purify: serving at {url} with {said}", err=True)
