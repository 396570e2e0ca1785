"""What ``edge-purify`` without a command does: from options to the loop and its sinks."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import click

from sdk import loop
from sdk.cli import console
from sdk.host.terminal import echo
from sdk.meter import Meter
from sdk.purifier import Purifier
from sdk.result import Result
from sdk.sinks import JsonLines, Sink, Window, open_save
from sdk.sinks.preview import Address, Preview
from sdk.sources import Frame, Source, open_source
from sdk.sources.roi import Roi


def run(
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
) -> Meter:
    """Run the loop with the command's options, ``how`` being those of ``Purifier.load``, and print a summary.

    Raises:
        EdgePurifyError, click.ClickException: whatever went wrong; every file is finished.
    """
    spec = _one_source(source, camera)
    _require_other_files(spec, save, json)
    if json == "-" and verbose:
        raise click.UsageError("--json - and --verbose both want standard output; give --json a file")
    if seed is not None:
        echo(f"edge-purify: --seed {seed} makes the draws predictable: they protect nothing", err=True)

    region = None if roi is None else Roi.parse(roi)
    address = None if serve is None else Address.parse(serve)
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
                echo(console.frame_line(frame, result))

        try:
            loop.run(purifier, frames, sinks, max_frames=max_frames, on_result=on_result, meter=meter)
        finally:  # what was done before an error is kept, so say it
            progress.close()
            console.show_summary(meter.summary())
    return meter


def _one_source(source: str | None, camera: int | None) -> str | int:
    if source is not None and camera is not None:
        raise click.UsageError("give --source SPEC or --camera N, not both")
    if source is not None:
        return source
    if camera is not None:
        return camera
    raise click.UsageError("give --source SPEC or --camera N")


def _require_other_files(spec: str | int, *outputs: str | None) -> None:
    """No output may replace the source, nor the other output; an unset shell variable is none."""
    if "" in (spec, *outputs):
        raise click.UsageError("--source, --save and --json need a path, got an empty one")
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
    sinks: list[Sink] = []
    if save is not None:
        sinks.append(open_save(save, source.fps, real_time=source.live))
    if json is not None:
        sinks.append(JsonLines(json, purifier.bundle.labels))
    if show:
        sinks.append(Window(pause=not source.live and source.fps is None))
    if address is not None:
        sinks.append(Preview(address, purifier.bundle, on_open=_say_where))
    return sinks


def _say_where(url: str) -> None:
    echo(f"edge-purify: preview at {url}", err=True)
