"""A bundle's contents for a person or a program: ``edge-purify inspect``.

What was measured and the provenance are free-form JSON in the manifest. What isn't as this project writes it
is left out of the tables; ``--json`` has everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table

from sdk.choices import BUNDLE_PRECISIONS
from sdk.cli.console import few
from sdk.host.terminal import escape

if TYPE_CHECKING:
    from sdk.bundle import Bundle, CoveredFile, Engine, File

Row = tuple[str, str]
WIDTH = 120  # columns, where there is no terminal to ask
MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]"}


def show_bundle(bundle: Bundle) -> None:
    """Print what a verified bundle holds, what of it was checked, and what was measured, on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:  # rich takes 80 columns for a file, and would fold the lines
        console = Console(highlight=False, width=WIDTH)
    console.print(_grid(_facts(bundle)))
    _print(console, "checked", _checked(bundle))
    _print(console, "engines", _engines(bundle))
    ladders = [ladder for measured in bundle.manifest.measured if (ladder := _ladder(measured)) is not None]
    for title, table in ladders:
        _print(console, title, table)
    if not ladders:
        _print(console, "measured", "nothing yet; 'edge-train evaluate BUNDLE --into-bundle' measures it")
    if rows := list(_provenance(bundle.manifest.provenance)):
        _print(console, "provenance", _grid(rows))


def bundle_json(bundle: Bundle) -> str:
    """A verified bundle's contents as JSON: its whole manifest, and what was found with it."""
    found = {
        "folder": str(bundle.folder),
        "sha256": bundle.digest,
        "signed_by": bundle.signed_by,
        "has_signature": bundle.has_signature,
        "size_bytes": _size_bytes(bundle),
        "labels": bundle.labels,
        "files": bundle.coverage(),
        "manifest": bundle.manifest,
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=1).decode()


def _print(console: Console, title: str, content: Table | str) -> None:
    console.print(f"\n[bold]{escape(title)}[/]", soft_wrap=True)
    console.print(content)


def _facts(bundle: Bundle) -> Iterator[Row]:
    manifest = bundle.manifest
    n_purifiers, n_classifiers = len(manifest.purifiers), len(manifest.classifiers)
    yield "bundle", f"{manifest.name} ({manifest.family}), {bundle.folder}"
    yield "sha256", bundle.digest
    if manifest.version is not None or manifest.purpose is not None:
        version = "none" if manifest.version is None else str(manifest.version)
        yield "version", version + (f", for {manifest.purpose!r}" if manifest.purpose is not None else "")
    yield "image", f"{manifest.image.height} x {manifest.image.width}"
    yield "labels", f"{len(bundle.labels)}: {few(bundle.labels)}"
    sub_models = f"{n_purifiers * n_classifiers}: {n_purifiers} purifiers × {n_classifiers} classifiers"
    yield "sub-models", sub_models
    if manifest.calibration is not None:
        yield "temperature", f"{manifest.calibration.temperature:.3g}, which calibrates the scores"


def _checked(bundle: Bundle) -> Table:
    """What was checked just now, and what can be checked by other commands."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, status, text in _checks(bundle):
        table.add_row(escape(name), MARKS[status], escape(text))
    return table


def _checks(bundle: Bundle) -> Iterator[tuple[str, str, str]]:
    manifest, files = bundle.manifest, bundle.coverage()
    n_files, size = len(list(manifest.files())), _size(_size_bytes(bundle))
    yield "hashes", "ok", f"{n_files} files, {size}, all hashes match"
    for text in _uncovered(files):
        yield "other files", "note", text
    if bundle.signed_by is not None:
        yield "signature", "ok", f"valid, by the key {bundle.signed_by}"
    elif bundle.has_signature:
        yield "signature", "note", "there is one, not checked; --require-signature KEY checks it"
    else:
        yield "signature", "note", "none"
    yield "golden outputs", "ok", "there; 'edge-purify doctor --selftest' replays them"
    if manifest.twin is not None:
        yield "twin", "ok", "there, so white-box attacks can be measured"
    else:
        yield "twin", "ok", "none; white-box attacks go through the ONNX graphs"
    if manifest.robustness is not None:
        yield "record", "ok", "there; 'edge-train evaluate --gate' holds the bundle to it"
    else:
        yield "record", "note", "none, so no gate on its robustness"
    if manifest.plans:
        yield "built engines", "ok", f"{len(manifest.plans)} files listed, each verified when it is loaded"


def _uncovered(files: Sequence[CoveredFile]) -> Iterator[str]:
    """Lines on files that no hash vouches for; the manifest and the signature are files of their own kind."""
    for coverage, what in (
        ("not covered", "not in the manifest and not used"),
        ("missing", "listed and missing"),
        ("changed", "listed and changed"),
    ):
        if names := [file.file for file in files if file.coverage == coverage]:
            yield f"{len(names)} {what}: {few(names)}"


def _engines(bundle: Bundle) -> Table:
    """A row per engine: its random inputs, and the size of its ONNX file in each precision."""
    engines = bundle.manifest.engines
    columns: dict[str, list[File | None]] = {}
    for precision in BUNDLE_PRECISIONS:
        columns[precision] = [engine.onnx.get(precision) for engine in engines]
        columns[f"{precision} for CPUs"] = [engine.cpu.get(precision) for engine in engines]
    columns = {name: files for name, files in columns.items() if any(files)}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("engine", "random inputs", *columns):
        right = name in columns
        table.add_column(name, justify="right" if right else "left", header_style="bold", no_wrap=right)
    for index, engine in enumerate(engines):
        sizes = [_size_of(bundle, files[index]) for files in columns.values()]
        table.add_row(escape(engine.id), escape(_random_inputs(engine)), *sizes)
    return table


def _size_of(bundle: Bundle, file: File | None) -> str:
    return "-" if file is None else _size(bundle.path(file).stat().st_size)


def _random_inputs(engine: Engine) -> str:
    return ", ".join(f"{item.name}: {item.take} of {item.size}" for item in engine.random_inputs) or "none"


def _ladder(measured: Mapping[str, Any]) -> tuple[str, Table] | None:
    """One measurement as a table: what is still classified rightly under each attack, with its interval."""
    rungs = measured.get("ladder")
    if not isinstance(rungs, dict) or not rungs:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("under attack", header_style="bold")
    for name in ("right", "95 % interval", "images"):
        table.add_column(name, justify="right", header_style="bold", no_wrap=True)
    for name, rung in rungs.items():
        if not isinstance(rung, dict):
            continue
        share, low, high = (_percent(rung.get(key)) for key in ("share", "low", "high"))
        table.add_row(escape(name), share, f"{low} – {high}", escape(rung.get("images", "?")))
    failed = measured.get("failed_checks")
    if isinstance(failed, list) and failed:
        table.add_row(escape(f"an attack may have been too weak: {few([*map(str, failed)])}"))
    return _title(measured), table


def _title(measured: Mapping[str, Any]) -> str:
    """``quick attacks of linf 8/255, on fp32 in onnxruntime 1.31.1, x86_64``."""
    said = {key: measured.get(key) for key in ("budget", "norm", "precision", "backend", "version", "device")}
    attack = f"{said['budget']} attacks of {said['norm']} {_fraction(measured.get('eps'))}"
    if said["budget"] == "clean":
        attack = "clean images"
    return f"{attack}, on {said['precision']} in {said['backend']} {said['version']}, {said['device']}"


def _fraction(eps: Any) -> str:
    """``8/255`` for a multiple of a grey level, the usual way to write it."""
    if not _is_number(eps):
        return "?"
    levels = eps * 255
    return f"{round(levels)}/255" if levels and abs(levels - round(levels)) < 1e-3 else f"{eps:.4g}"


def _percent(share: Any) -> str:
    return f"{share:.1%}" if _is_number(share) else "?"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _provenance(provenance: Mapping[str, Any]) -> Iterator[Row]:
    """Where the models come from, shortly."""
    config = _section(provenance, "config")
    data, recipe = _section(config, "data"), _section(config, "recipe")
    validation = _section(provenance, "validation_accuracy")
    export = _section(provenance, "export")
    trained = {
        "trained by": config.get("name"),
        "recipe": recipe.get("kind"),
        "data": provenance.get("data", data.get("name")),
        "images": provenance.get("training_images"),
        "epochs": provenance.get("epochs"),
        "after": ", ".join(_section(provenance, "ancestors")) or None,
        "validation": ", ".join(f"{name} {_percent(share)}" for name, share in validation.items()) or None,
        "exported by": f"edge-purify {export.get('edge-purify', '?')}" if export else None,
    }
    for name, value in trained.items():
        if value is not None:
            yield name, str(value)


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, dict) else {}


def _grid(rows: Iterable[Row]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(f"[bold]{escape(name)}[/]", escape(value))
    return table


def _size_bytes(bundle: Bundle) -> int:
    return sum(bundle.path(file).stat().st_size for file in bundle.manifest.files())


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"
