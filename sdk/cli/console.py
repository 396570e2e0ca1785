"""What the command shows on a terminal: progress, the closing summary, a bundle's contents."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

if TYPE_CHECKING:
    from sdk.bundle import Bundle, Engine
    from sdk.meter import Summary
    from sdk.result import Result
    from sdk.sources import Frame

MOST_NAMES = 10  # of labels or engines, on a line of the summary


def frame_line(frame: Frame, result: Result) -> str:
    """``frame 12  cat 0.93  purifier-02 × classifier-01  2.1 ms``, with every vote's engines."""
    decision = f"no label ({result.error})" if result.label is None else f"{result.label} {result.score:.2f}"
    engines = ", ".join(f"{draw.purifier_id} × {draw.classifier_id}" for draw in result.draws)
    return f"frame {frame.index}  {decision}  {engines}  {result.timings.total_ms:.1f} ms"


class Progress:
    """A progress bar on stderr, if that is a terminal; a context manager.  ``total`` is None if unknown."""

    def __init__(self, name: str, total: int | None, *, hidden: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(show_speed=True),
            TimeRemainingColumn(),
            TextColumn("{task.fields[label]}"),
            console=console,
            disable=hidden or not console.is_terminal,
            redirect_stdout=False,
            transient=True,
        )
        self._task = self._bar.add_task(escape(name), total=total, label="")

    def advance(self, label: str = "") -> None:
        """One frame is done; ``label`` stands behind the bar."""
        self._bar.update(self._task, advance=1, label=escape(label))

    def close(self) -> None:
        self._bar.stop()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def show_summary(summary: Summary) -> None:
    """Print what a run did, on stderr; nothing if it had not one frame."""
    if not summary.frames:
        return
    console = Console(stderr=True, highlight=False)
    counts = f"{summary.frames} frames in {summary.seconds:.1f} s, {summary.frames_per_s:.1f} frames/s"
    for count, what in ((summary.skipped, "without a label"), (summary.missed, "missed while busy")):
        counts += f", {count} {what}" if count else ""
    console.print(counts + (", interrupted" if summary.interrupted else ""), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for name, shares in (
        ("labels", summary.labels),
        ("purifiers", summary.purifiers),
        ("classifiers", summary.classifiers),
    ):
        table.add_row(f"[bold]{name}[/]", escape(_shares(shares)))
    console.print(table)
    console.print(_stages(summary))
    if summary.seeded:
        console.print("[bold red]seeded: these draws were predictable and protected nothing[/]")


def show_bundle(bundle: Bundle) -> None:
    """Print a verified bundle's contents and figures, on stdout."""
    console = Console(highlight=False)
    manifest = bundle.manifest
    n_purifiers, n_classifiers = len(manifest.purifiers), len(manifest.classifiers)
    n_files = len(list(manifest.files()))
    facts = {
        "bundle": f"{manifest.name} ({manifest.family}), {bundle.folder}",
        "verified": f"{n_files} files, {_size(_size_bytes(bundle))}, all hashes match",
        "sha256": bundle.digest,
        "signature": _signature(bundle),
        "image": f"{manifest.image.height} x {manifest.image.width}",
        "labels": f"{len(bundle.labels)}: {_few(bundle.labels)}",
        "sub-models": f"{n_purifiers * n_classifiers}: {n_purifiers} purifiers × {n_classifiers} classifiers",
        "twin": "yes, white-box attacks can be measured" if manifest.twin else "none, white-box not measured",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    for measured in manifest.measured or ("nothing yet",):
        table.add_row("[bold]measured[/]", escape(_flat(measured)))
    for name, value in manifest.provenance.items():
        table.add_row(f"[bold]{escape(name)}[/]", escape(_flat(value)))
    console.print(table)
    console.print(_engines(bundle))


def bundle_json(bundle: Bundle) -> str:
    """A verified bundle's contents as JSON: its manifest, and what was found with it."""
    found = {
        "folder": str(bundle.folder),
        "sha256": bundle.digest,
        "signed_by": bundle.signed_by,
        "size_bytes": _size_bytes(bundle),
        "labels": bundle.labels,
        "manifest": bundle.manifest,
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=1).decode()


def _stages(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stage", style="bold")
    for percent in ("p50", "p90", "p99"):
        table.add_column(f"{percent} ms", justify="right")
    for name, times in summary.stages.items():
        table.add_row(name, *(f"{value:.2f}" for value in times))
    return table


def _engines(bundle: Bundle) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("engine", "random inputs", "precision", "size"):
        table.add_column(name, justify="right" if name == "size" else "left", header_style="bold")
    for engine in bundle.manifest.engines:
        for precision, file in engine.onnx.items():
            size_bytes = bundle.path(file).stat().st_size
            table.add_row(escape(engine.id), escape(_random_inputs(engine)), precision, _size(size_bytes))
    return table


def _random_inputs(engine: Engine) -> str:
    return ", ".join(f"{item.name}: {item.take} of {item.size}" for item in engine.random_inputs) or "none"


def _signature(bundle: Bundle) -> str:
    if bundle.signed_by is not None:
        return f"valid, by the key {bundle.signed_by}"
    return "there is one; --require-signature KEY checks it" if bundle.has_signature else "none"


def _size_bytes(bundle: Bundle) -> int:
    return sum(bundle.path(file).stat().st_size for file in bundle.manifest.files())


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return _few([f"{name} {count} ({count / total:.0%})" for name, count in counts.items()]) or "none"


def _few(names: Any) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _flat(value: Any) -> str:
    """Nested JSON on one line: ``clean: 0.85, config: (lr: 0.2)``."""
    if isinstance(value, dict):
        inner = ((key, _flat(item), isinstance(item, dict)) for key, item in value.items())
        return ", ".join(f"{key}: ({text})" if nested else f"{key}: {text}" for key, text, nested in inner)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_flat, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
