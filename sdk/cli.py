"""The command ``edge-purify``: the loop over a camera or video, and what looks at a bundle.

Exit codes: 0 done; 1 the work failed; 2 wrong usage; 3 a gate not met; 130 stopped by Ctrl-C or SIGTERM, with
every file finished.  What a command needs is imported when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sdk.errors import EdgePurifyError, UsageError

if TYPE_CHECKING:
    from sdk.preview import Address
    from sdk.purifier import Purifier
    from sdk.result import Result
    from sdk.sinks import Sink
    from sdk.sources import Frame, Source

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
    except BrokenPipeError:  # standard output went into a command that has ended, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's exit complains as well
        code = 1
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
@click.option("--camera", metavar="N", type=click.IntRange(min=0), help="Camera number.")
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
    "--votes", metavar="N", type=click.IntRange(min=1), default=1, show_default=True,
    help="Draws per frame, averaged.",
)  # fmt: skip
@click.option("--suspicion", is_flag=True, help="Say how far raw and purified decisions disagree.")
@click.option("--roi", metavar="X,Y,W,H", help="Purify this part of every frame, in pixels, and no other.")
@click.option("--max-frames", metavar="N", type=click.IntRange(min=1), help="Stop after N frames.")
@click.option("--save", metavar="PATH", help="Annotated video (.mp4 .avi .mkv), or a folder for PNGs.")
@click.option("--json", metavar="PATH", help="One JSON object a frame; - is standard output.")
@click.option("--show", is_flag=True, help="Show the frames in a window; q ends.")
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
        _loop(**options)
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
    from sdk import console
    from sdk.bundle import Bundle

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
    "--votes", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="Draws per frame."
)
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
    from sdk.console import Progress

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


def _loop(
    *,
    source: str | None,
    camera: int | None,
    max_frames: int | None,
    save: str | None,
    json: str | None,
    show: bool,
    serve: str | None,
    roi: str | None,
    seed: int | None,
    verbose: bool,
    **how: Any,
) -> None:
    spec = _one_source(source, camera)
    _require_other_files(spec, save, json)
    if json == "-" and verbose:
        raise click.UsageError("--json - and --verbose both want standard output; give --json a file")
    if seed is not None:
        click.echo(f"edge-purify: --seed {seed} makes the draws predictable: they protect nothing", err=True)

    from sdk import console
    from sdk.loop import run
    from sdk.meter import Meter
    from sdk.preview import Address
    from sdk.purifier import Purifier
    from sdk.roi import Roi
    from sdk.sources import open_source

    region = None if roi is None else Roi.parse(roi)
    address = None if serve is None else Address.parse(serve)
    _stop_on_sigterm()
    meter = Meter()
    with ExitStack() as stack:
        shown = show or save is not None or address is not None
        purifier = stack.enter_context(Purifier.load(seed=seed, keep_purified=shown, **how))
        frames = stack.enter_context(open_source(spec, roi=region))
        total = min((count for count in (frames.total, max_frames) if count is not None), default=None)
        sinks = _sinks(purifier, frames, save=save, json=json, show=show, address=address)
        progress = stack.enter_context(console.Progress(frames.name, total, hidden=verbose or json == "-"))

        def on_result(frame: Frame, result: Result) -> None:
            progress.advance(result.label or "no label")
            if verbose:
                click.echo(console.frame_line(frame, result))

        try:
            run(purifier, frames, sinks, max_frames=max_frames, on_result=on_result, meter=meter)
        finally:  # what was done before an error is kept, so say it
            progress.close()
            console.show_summary(meter.summary())
    if meter.interrupted:
        raise click.exceptions.Exit(STOPPED)


def _one_source(source: str | None, camera: int | None) -> str | int:
    if source is not None and camera is not None:
        raise click.UsageError("give --source SPEC or --camera N, not both")
    if source is not None:
        return source
    if camera is not None:
        return camera
    raise click.UsageError("give --source SPEC or --camera N")


def _require_other_files(spec: str | int, *outputs: str | None) -> None:
    """No output may replace the source, nor the other output."""
    named = [os.path.realpath(path) for path in (spec, *outputs) if isinstance(path, str)]
    if len(set(named)) < len(named):
        raise click.UsageError("--source, --save and --json need a different path each")


def _sinks(
    purifier: Purifier,
    source: Source,
    *,
    save: str | None,
    json: str | None,
    show: bool,
    address: Address | None,
) -> list[Sink]:
    from sdk.preview import Preview
    from sdk.sinks import JsonLines, Window, open_save

    sinks: list[Sink] = []
    if save is not None:
        sinks.append(open_save(save, source.fps, real_time=source.live))
    if json is not None:
        sinks.append(JsonLines(json, purifier.bundle.labels))
    if show:
        sinks.append(Window())
    if address is not None:
        sinks.append(Preview(address, purifier.bundle, on_open=_say_where))
    return sinks


def _say_where(url: str) -> None:
    click.echo(f"edge-purify: preview at {url}", err=True)


def _stop_on_sigterm() -> None:
    """Let SIGTERM, which service managers and containers send, end the loop as Ctrl-C does."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def _report(message: str, code: int) -> int:
    click.echo(f"edge-purify: error: {' '.join(message.split())}", err=True)
    return code


class _Notices(logging.Handler):
    """The SDK's own notices (what runs the engines, a stream that is lost), one line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"edge-purify: {record.getMessage()}", err=True)
