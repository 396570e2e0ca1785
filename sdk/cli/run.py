"""``edge-purify`` without a command: from options to the loop and its sinks."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from sdk import loop
from sdk.cli import console
from sdk.errors import SourceError
from sdk.host.terminal import echo
from sdk.meter import Meter
from sdk.purifier import OnError, Purifier
from sdk.result import Result
from sdk.sinks import JsonLines, Sink, Watchdog, Window, open_save
from sdk.sinks.per_source import PerSource
from sdk.sinks.preview import Address, Preview
from sdk.sources import Frame, Source, SourceEvent, SourceState, Trust, open_sources
from sdk.sources.live import PATIENCE_S
from sdk.sources.open import shown_spec
from sdk.sources.roi import Roi

log = logging.getLogger("sdk")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options, by their names."""

    source: Sequence[str]
    camera: Sequence[int]
    bundle: str | None
    require_signature: str | None
    min_version: int | None
    purpose: str | None
    remember_version: bool
    backend: str
    precision: str
    provider: str
    device: int
    cuda_binding: str
    votes: int
    suspicion: bool
    min_score: float
    hide_draw: bool
    roi: Sequence[str]
    ca: str | None
    insecure: bool
    max_frames: int | None
    save: str | None
    json: str | None
    show: bool
    serve: str | None
    seed: int | None
    on_error: OnError
    on_source_error: loop.OnSourceError
    verbose: bool

    @property
    def specs(self) -> list[str | int]:
        return [*self.source, *self.camera]


def run(options: Options) -> Meter:
    """Run the loop and print a summary.

    Raises:
        EdgePurifyError, click.ClickException: whatever went wrong; every file is finished.
    """
    _check(options)
    address = None if options.serve is None else Address.parse(options.serve)
    meter = Meter()
    with ExitStack() as stack:
        shown = options.show or options.save is not None or address is not None
        purifier = stack.enter_context(_load(options, keep_purified=shown))
        sources, left_out = _open_all(options, stack)
        _require_unread(sources, _outputs(options, len(sources)))
        sinks = _sinks(purifier, sources, options, address)
        hidden = options.verbose or options.json == "-"
        name = ", ".join(each.name for each in sources)
        progress = stack.enter_context(
            console.Progress(name, _total(sources, options.max_frames), hidden=hidden)
        )

        def on_result(frame: Frame, result: Result) -> None:
            progress.advance(result.label or "no label")
            if options.verbose:
                name = f"{frame.source}: " if len(sources) > 1 else ""
                echo(name + console.frame_line(frame, result))

        try:
            loop.run(
                purifier,
                sources,
                sinks,
                max_frames=options.max_frames,
                on_result=on_result,
                meter=meter,
                on_source_error=options.on_source_error,
            )
        finally:  # what was done before an error is kept, so say it
            progress.close()
            for event in left_out:
                meter.add_event(event)
            console.show_summary(meter.summary())
            _show_sources(meter)
    return meter


def _check(options: Options) -> None:
    """Refuse options that are at odds, and say what some of them mean."""
    if not options.specs:
        raise click.UsageError("give --source SPEC or --camera N")
    _require_other_files(options.specs, options.save, options.json)
    for text in options.roi:
        Roi.parse(text)
    if options.json == "-" and options.verbose:
        raise click.UsageError("--json - and --verbose both want standard output; give --json a file")
    if options.seed is not None:
        echo(
            f"edge-purify: --seed {options.seed} makes the draws predictable: they protect nothing", err=True
        )
    if options.insecure:
        echo("edge-purify: --insecure: certificates aren't verified, anyone may supply the frames", err=True)


def _load(options: Options, *, keep_purified: bool) -> Purifier:
    return Purifier.load(
        options.bundle,
        backend=options.backend,
        precision=options.precision,
        provider=options.provider,
        device=options.device,
        cuda_binding=options.cuda_binding,
        votes=options.votes,
        on_error=options.on_error,
        keep_purified=keep_purified,
        suspicion=options.suspicion,
        min_score=options.min_score,
        hide_draw=options.hide_draw,
        seed=options.seed,
        require_signature=options.require_signature,
        min_version=options.min_version,
        purpose=options.purpose,
        remember_version=options.remember_version,
    )


def _open_all(options: Options, stack: ExitStack) -> tuple[list[Source], list[SourceEvent]]:
    """All sources, which ``stack`` closes, and what ``--on-source-error keep`` leaves out.

    Raises:
        SourceError: one can't be opened; with ``keep``, none can.
    """
    keep = options.on_source_error == "keep"
    rois = [Roi.parse(text) for text in options.roi]
    sources: list[Source] = []
    failures: list[SourceError] = []
    left_out: list[SourceEvent] = []
    for spec in options.specs:
        try:
            opened = open_sources(
                spec,
                roi=rois,
                on_unreadable=options.on_error,
                trust=Trust(options.ca, options.insecure),
                patience_s=math.inf if keep else PATIENCE_S,
            )
        except SourceError as error:
            if not keep:
                raise
            failures.append(error)
            left_out.append(SourceEvent(shown_spec(spec), SourceState.FAILED, error.what))
            continue
        sources += [stack.enter_context(each) for each in opened]
    if not sources:
        raise failures[0]
    for failure in failures:
        log.warning("left out: %s", failure)
    return sources, left_out


def _require_other_files(specs: Sequence[str | int], *outputs: str | None) -> None:
    """No output may replace a source, nor the other output; an unset shell variable is none."""
    if "" in (*specs, *outputs):
        raise click.UsageError("--source, --save and --json need a path, got an empty one")
    if not all(_can_be_a_path(path) for path in (*specs, *outputs) if isinstance(path, str)):
        raise click.UsageError("--source, --save and --json need a path, got text that none can have")
    if any("://" in path for path in outputs if path is not None):
        raise click.UsageError("--save and --json need a file or folder here, got a URL")
    read = {
        os.path.realpath(path.removeprefix("@")) for path in specs if isinstance(path, str) and path != "-"
    }
    written = [os.path.realpath(path) for path in outputs if path is not None]
    if read & set(written) or len(set(written)) < len(written):
        raise click.UsageError("--source, --save and --json need a different path each")


def _outputs(options: Options, n_sources: int) -> list[str]:
    """The files and folders that will be written."""
    saved = [] if options.save is None else _saves(options.save, n_sources)
    return saved if options.json in (None, "-") else [*saved, str(options.json)]


def _require_unread(sources: Sequence[Source], outputs: Sequence[str]) -> None:
    """No output may replace a file that a source reads, whatever names and links lead to it."""
    written = {_identity(path): path for path in outputs}
    for source in sources:
        for file in source.files:
            identity = _identity(file)
            if identity is not None and (path := written.get(identity)) is not None:
                raise click.UsageError(f"{path} is read by --source; write to another file")


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What is the same for all names of a file; None where there is none yet."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _total(sources: Sequence[Source], max_frames: int | None) -> int | None:
    """Frames to expect, None if nobody knows."""
    totals = [each.total for each in sources]
    known = sum(total for total in totals if total is not None) if None not in totals else None
    return min((count for count in (known, max_frames) if count is not None), default=None)


def _sinks(
    purifier: Purifier, sources: Sequence[Source], options: Options, address: Address | None
) -> list[Sink]:
    names = loop.distinct([each.name for each in sources])
    sinks: list[Sink] = []
    if options.save is not None:
        paths = _saves(options.save, len(sources))
        sinks.append(
            _per_source(
                names,
                [open_save(path, each.fps) for path, each in zip(paths, sources, strict=True)],
            )
        )
    if options.json is not None:
        sinks.append(JsonLines(options.json, purifier.bundle.labels))
    if options.show:
        titles = ["edge-purify"] if len(sources) == 1 else [f"edge-purify {name}" for name in names]
        sinks.append(
            _per_source(
                names,
                [
                    Window(title, pause=not each.live and each.fps is None)
                    for title, each in zip(titles, sources, strict=True)
                ],
            )
        )
    if address is not None:
        sinks.append(Preview(address, purifier.bundle, on_open=_say_where))
    if (watchdog := Watchdog.from_environment()) is not None:
        sinks.append(watchdog)
    return sinks


def _per_source(names: Sequence[str], sinks: Sequence[Sink]) -> Sink:
    return sinks[0] if len(sinks) == 1 else PerSource(dict(zip(names, sinks, strict=True)))


def _saves(save: str, count: int) -> list[str]:
    """A file or folder for every source: ``out.mp4``; of several ``out-1.mp4``, ``out-2.mp4`` and so on."""
    if count == 1:
        return [save]
    path, slash = Path(save), "/" if save.endswith("/") else ""  # which Path drops, and which means a folder
    return [
        f"{path.with_name(f'{path.stem}-{number}{path.suffix}')}{slash}" for number in range(1, count + 1)
    ]


def _show_sources(meter: Meter) -> None:
    """What became of each of several sources."""
    sources = meter.summary().sources
    if len(sources) < 2:
        return
    for name, each in sources.items():
        missed = f", {each.missed} missed while busy" if each.missed else ""
        skipped = f", {each.skipped} without a label" if each.skipped else ""
        reason = f": {each.reason}" if each.reason else ""
        echo(f"{name}: {each.frames} frames{skipped}{missed}, {each.state}{reason}", err=True)


def _say_where(url: str) -> None:
    echo(f"edge-purify: preview at {url}", err=True)
