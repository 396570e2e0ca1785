"""The command ``edge-purify``: the loop over a camera or video, and what looks at a bundle.

Exit codes: 0 done; 1 the work failed; 2 wrong usage; 3 a gate not met; 130 stopped by Ctrl-C or SIGTERM, with
every file finished.  What a command needs is imported when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from sdk.errors import EdgePurifyError, UsageError

STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; a user's mistake is one line on stderr."""
    log = logging.getLogger("sdk")
    log.handlers = [_Notices()]
    log.setLevel(logging.INFO)
    try:
        code = cli.main(arguments, prog_name="edge-purify", standalone_mode=False)
    except click.Abort:
        code = STOPPED
    except click.ClickException as error:
        code = _report(f"{error.format_message()} (edge-purify --help says more)", UsageError.exit_code)
    except EdgePurifyError as error:
        code = _report(str(error), error.exit_code)
    except ImportError as error:
        if error.name != "cv2":  # which is no dependency on aarch64, where JetPack has its own
            raise
        code = _report(
            f"{error}; pip install 'edge-purify[opencv]', or on a Jetson apt install python3-opencv", 1
        )
    except OSError as error:  # standard output is on a full disk; of a pipe that has ended, click takes care
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's exit complains as well
        code = _report(f"{error.filename or 'standard output'}: {error.strerror}", 1)
    sys.exit(code or 0)


_signature_option = click.option(
    "--require-signature",
    metavar="KEY",
    help="Refuse a bundle that this Ed25519 public key (PEM) has not signed.",
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--source", metavar="SPEC", help="Video, picture, folder, 'glob', rtsp:// or http:// URL, csi://0."
)
@click.option("--camera", metavar="N", type=click.IntRange(0, 2**31 - 1), help="Camera number.")
@click.option("--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]")
@_signature_option
@click.option(
    "--backend", default="auto", show_default=True, help="What runs the engines.",
    type=click.Choice(["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]),
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "fp16", "int8"]), default="auto",
    show_default=True, help="Which of the bundle's engines.",
)  # fmt: skip
@click.option(
    "--provider", type=click.Choice(["cpu", "cuda", "tensorrt"]), default="cpu",
    show_default=True, help="What --backend onnxruntime runs on.",
)  # fmt: skip
@click.option(
    "--votes", metavar="N", type=click.IntRange(1, 1000), default=1, show_default=True,
    help="Draws per frame, averaged.",
)  # fmt: skip
@click.option("--suspicion", is_flag=True, help="Say how far raw and purified decisions disagree.")
@click.option("--roi", metavar="X,Y,W,H", help="Purify this part of every frame, in pixels, and no other.")
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
    help="When an engine fails: stop, or give the frame no label.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print a line a frame.")
@click.version_option(package_name="edge-purify")
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Purify adversarial images and classify them, with a random engine drawn for every frame.

    Without a command, runs over a camera or file:

    \b
      edge-purify --camera 0 --show
      edge-purify --source clip.mp4 --save annotated.mp4 --json results.jsonl
    """
    if context.invoked_subcommand is None:
        from sdk.cli.run import run

        if run(**options).interrupted:
            raise click.exceptions.Exit(STOPPED)
        return
    for name in options:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = name.replace("_", "-")
            raise click.UsageError(
                f"--{flag} before '{context.invoked_subcommand}' has no effect; put it after, or out"
            )


@cli.command()
@click.argument("bundle")
@_signature_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(bundle: str, require_signature: str | None, as_json: bool) -> None:
    """Show what BUNDLE holds and what was measured, after verifying every file's hash."""
    from sdk.bundle import Bundle
    from sdk.cli import console

    opened = Bundle.open(bundle, public_key=require_signature)
    if as_json:
        click.echo(console.bundle_json(opened))
    else:
        console.show_bundle(opened)


@cli.command()
@click.option("--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "fp16", "int8"]), default="auto",
    show_default=True, help="Which of the bundle's engines.",
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
    "--only", metavar="SECTION", multiple=True,
    help="stages, preprocess, votes, banks, memory, loop, start or eager; may be repeated.  [default: all]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--gate", is_flag=True, help="Exit with 3 if a figure misses its bound.")
@_signature_option
def benchmark(
    bundle: str | None,
    require_signature: str | None,
    size: str,
    only: tuple[str, ...],
    soak: int | None,
    as_json: bool,
    gate: bool,
    **how: Any,
) -> None:
    """Measure what the runtime costs beyond the bare engines, and hold that to its bounds.

    Both sides of every comparison take turns in one run.  Takes about a minute on two idle CPUs.
    """
    from rich.console import Console

    from sdk import benchmark as bench
    from sdk.bundle import Bundle, default_bundle
    from sdk.cli.console import Progress

    opened = Bundle.open(bundle or default_bundle(), public_key=require_signature)
    frame_size = bench.parse_size(size)
    with Progress("benchmark", bench.steps(only, soak)) as progress:
        report = bench.run(
            opened, frame_size=frame_size, only=only, soak=soak, on_step=progress.advance, **how
        )
    if as_json:
        click.echo(bench.as_json(report))
    else:
        Console(highlight=False).print(bench.render(report))
    if gate:
        bench.gate(report)


@cli.command()
@click.option("--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]")
@click.option(
    "--selftest", is_flag=True, help="Replay the bundle's golden outputs through all that runs here."
)
@_signature_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(bundle: str | None, selftest: bool, require_signature: str | None, as_json: bool) -> None:
    """Show what this machine has, what of a bundle runs on it, and how to mend what doesn't.

    Ends with 1 if something that is needed failed.
    """
    from sdk import doctor as doctors

    report = doctors.examine(bundle, selftest=selftest, require_signature=require_signature)
    if as_json:
        click.echo(doctors.as_json(report))
    else:
        doctors.show(report)
    if not report.healthy:
        raise click.exceptions.Exit(1)


def _report(message: str, code: int) -> int:
    click.echo(f"edge-purify: error: {' '.join(message.split())}", err=True)
    return code


class _Notices(logging.Handler):
    """The SDK's own notices (what runs the engines, a stream that is lost), one line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"edge-purify: {record.getMessage()}", err=True)
