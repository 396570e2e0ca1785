"""The command ``edge-purify``: the loop over a camera or video, and commands that look at a bundle.

How a command ends, and its exit codes, are `sdk.cli.app`'s. What a command needs is imported when it runs, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from sdk.choices import BACKENDS, CUDA_BINDINGS, PRECISIONS, PROVIDERS
from sdk.cli.app import App, given
from sdk.cli.fleet import batch, serve
from sdk.cli.signals import STOPPED
from sdk.host.terminal import echo

_bundle_option = click.option(
    "--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]"
)
_signature_option = click.option(
    "--require-signature",
    metavar="KEY",
    help="Refuse a bundle that this Ed25519 public key (PEM) has not signed.",
)
_precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
    help="Which of the bundle's engines.",
)  # fmt: skip
_json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    from sdk.cli.config import read_config

    read_config(context, parameter, path)


@click.group(cls=App, name="edge-purify", notices=logging.INFO, invoke_without_command=True)
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path), is_eager=True, expose_value=False,
    callback=_read_config, help="Options from a TOML file, their names as keys; those given here win.",
)  # fmt: skip
@click.option(
    "--source", metavar="SPEC", multiple=True,
    help="Video, picture, folder, 'glob', list, rtsp:// or http:// URL, csi://0, or @FILE or env:NAME that "
    "holds one. May be repeated.",
)  # fmt: skip
@click.option(
    "--camera", metavar="N", type=click.IntRange(0, 2**31 - 1), multiple=True,
    help="Camera number. May be repeated.",
)  # fmt: skip
@_bundle_option
@_signature_option
@click.option(
    "--min-version",
    metavar="N",
    type=click.IntRange(min=1),
    help="Refuse a signed bundle of a lower version.",
)
@click.option("--purpose", metavar="TEXT", help="Refuse a signed bundle for another purpose.")
@click.option(
    "--remember-version", is_flag=True, help="Refuse a lower version than this user has run with the key."
)
@click.option(
    "--backend", default="auto", show_default=True, help="What runs the engines.",
    type=click.Choice(BACKENDS),
)  # fmt: skip
@_precision_option
@click.option(
    "--provider", type=click.Choice(PROVIDERS), default="cpu",
    show_default=True, help="What --backend onnxruntime runs on.",
)  # fmt: skip
@click.option(
    "--device", metavar="N", type=click.IntRange(0, 255), default=0, show_default=True,
    help="Number of the GPU that TensorRT runs on.",
)  # fmt: skip
@click.option(
    "--cuda-binding", type=click.Choice(CUDA_BINDINGS), default="auto", show_default=True,
    help="What calls CUDA for TensorRT.",
)  # fmt: skip
@click.option(
    "--votes", metavar="N", type=click.IntRange(1, 1000), default=1, show_default=True,
    help="Draws per frame, averaged.",
)  # fmt: skip
@click.option("--suspicion", is_flag=True, help="Say how far raw and purified decisions disagree.")
@click.option(
    "--min-score", metavar="P", type=click.FloatRange(0, 1), default=0.0, show_default=True,
    help="Say 'unsure' where the best class has less.",
)  # fmt: skip
@click.option("--hide-draw", is_flag=True, help="Leave the engines drawn out of every output.")
@click.option(
    "--roi", metavar="X,Y,W,H", multiple=True,
    help="Purify this part of every frame, in pixels, and no other. May be repeated.",
)  # fmt: skip
@click.option("--ca", metavar="FILE", help="Authorities (PEM) of https and rtsps, in place of the system's.")
@click.option("--insecure", is_flag=True, help="Don't verify certificates: anyone may supply the frames.")
@click.option("--max-frames", metavar="N", type=click.IntRange(min=1), help="Stop after N frames.")
@click.option("--save", metavar="PATH", help="Annotated video (.mp4 .avi .mkv), or a folder for PNGs.")
@click.option("--json", metavar="PATH", help="One JSON object a frame; - is standard output.")
@click.option("--show", is_flag=True, help="Show the frames in a window; q ends, pictures wait for a key.")
@click.option(
    "--serve", metavar="[HOST:]PORT",
    help="Web page and metrics, seen from this machine alone.  0.0.0.0:PORT SHOWS THE CAMERA TO THE NETWORK: "
    "to whoever has the token in the address that is printed, unencrypted.",
)  # fmt: skip
@click.option("--seed", metavar="N", type=int, help="Predictable draws: for tests, they protect nothing.")
@click.option(
    "--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
    help="When an engine fails or a picture can't be read: stop, or give the frame no label.",
)  # fmt: skip
@click.option(
    "--on-source-error", type=click.Choice(["end", "keep"]), default="end", show_default=True,
    help="When a source fails: end the run, or keep the others and try a lost one for ever.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print a line a frame.")
@click.version_option(package_name="edge-purify")
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Purify adversarial images and classify them, with a random engine drawn for every frame.

    Without a command, runs over a camera or file:

    \b
      edge-purify --camera 0 --show
      edge-purify --source clip.mp4 --save annotated.mp4 --json results.jsonl
    """
    if context.invoked_subcommand is not None:
        if idle := given():
            raise click.UsageError(
                f"{idle[0]} before '{context.invoked_subcommand}' has no effect; put it after, or out"
            )
        return
    from sdk.cli.config import prefer_command_line
    from sdk.cli.run import Options, run

    meter = run(Options(**prefer_command_line(options)))
    if meter.interrupted:
        raise click.exceptions.Exit(STOPPED)
    if any(source.state == "failed" for source in meter.summary().sources.values()):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("bundle")
@_signature_option
@_json_option
def inspect(bundle: str, require_signature: str | None, as_json: bool) -> None:
    """Show what BUNDLE holds, what of it was checked and what was measured, after verifying its hashes."""
    from sdk.bundle import Bundle
    from sdk.cli.bundle_view import bundle_json, show_bundle

    opened = Bundle.open(bundle, public_key=require_signature)
    if as_json:
        echo(bundle_json(opened))
    else:
        show_bundle(opened)


@main.command()
@_bundle_option
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True,
    help="Of the engines in every section but 'precisions'. The bounds are set for fp32: faster engines "
    "make the same overhead a larger share.",
)  # fmt: skip
@click.option(
    "--frames", metavar="N", type=click.IntRange(min=1), default=1000, show_default=True,
    help="Frames that the stages are timed on; other sections take a share.",
)  # fmt: skip
@click.option(
    "--votes", metavar="N", type=click.IntRange(1, 1000), default=1, show_default=True,
    help="Draws per frame.",
)  # fmt: skip
@click.option("--size", metavar="WxH", default="1280x720", show_default=True, help="Size of the frames.")
@click.option("--soak", metavar="N", type=click.IntRange(min=1), help="Also run N frames: memory, drift.")
@click.option(
    "--soak-hours", metavar="H", type=float,
    help="Run H hours unattended instead: a camera lost and back, failing engines, viewers, rolling files.",
)  # fmt: skip
@click.option(
    "--only", metavar="SECTION", multiple=True,
    help="stages, preprocess, votes, banks, precisions, memory, loop or start; may be repeated. "
    "[default: all]",
)  # fmt: skip
@_json_option
@click.option("--gate", is_flag=True, help="Exit with 3 if a figure misses its bound.")
@_signature_option
def benchmark(
    bundle: str | None,
    require_signature: str | None,
    precision: str,
    frames: int,
    votes: int,
    size: str,
    only: tuple[str, ...],
    soak: int | None,
    soak_hours: float | None,
    as_json: bool,
    gate: bool,
) -> None:
    """Measure what the runtime costs beyond the bare engines, and hold that to its bounds.

    Both sides of every comparison take turns in one run. Takes about a minute on two idle CPUs.
    """
    from rich.console import Console

    from sdk import benchmark as bench
    from sdk.bundle import Bundle, default_bundle
    from sdk.cli.console import Progress

    opened = Bundle.open(bundle or default_bundle(), public_key=require_signature)
    frame_size = bench.parse_size(size)
    with Progress("benchmark", bench.steps(only, soak, soak_hours)) as progress:
        report = bench.run(
            opened,
            only=only,
            frames=frames,
            votes=votes,
            precision=precision,
            frame_size=frame_size,
            soak=soak,
            soak_hours=soak_hours,
            on_step=progress.advance,
        )
    if as_json:
        echo(bench.as_json(report))
    else:
        Console(highlight=False).print(bench.render(report))
    if gate:
        bench.gate(report)


@main.command()
@_bundle_option
@click.option(
    "--selftest", is_flag=True, help="Replay the bundle's golden outputs through all that runs here."
)
@_signature_option
@_json_option
def doctor(bundle: str | None, selftest: bool, require_signature: str | None, as_json: bool) -> None:
    """Show what this machine has, what of a bundle runs on it, and how to fix what doesn't.

    Ends with 1 if something that is needed failed.
    """
    from sdk import doctor as doctors

    report = doctors.examine(bundle, selftest=selftest, require_signature=require_signature)
    if as_json:
        echo(doctors.as_json(report))
    else:
        doctors.show(report)
    if not report.healthy:
        raise click.exceptions.Exit(1)


main.add_command(batch)
main.add_command(serve)
