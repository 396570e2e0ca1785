"""A report into the bundle that it is about: into ``measured`` of bundle.json, and into the model card."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import msgspec

from sdk.bundle import Bundle, File, sha256_of, write_manifest
from sdk.errors import BundleError, UsageError
from trainer.robustness.markdown import render
from trainer.robustness.report import Report

START, END = "<!-- robustness: start -->", "<!-- robustness: end -->"
NOT_MEASURED = re.compile(
    r"^(Clean accuracy of these engines: |Robustness ladder: )not measured yet.*\n+", re.MULTILINE
)


def into_bundle(report: Report, bundle: Bundle) -> None:
    """Add the report to ``bundle`` on disk, in place of an earlier one of the same setting.

    The bundle's digest changes with it; its engines and their hashes do not.

    Raises:
        UsageError: the report is about another bundle.
        BundleError: the folder can't be written.
    """
    if report.digest != bundle.digest:
        raise UsageError(
            f"bundle {bundle.folder}: expected a report about its bundle.json, sha256 {bundle.digest[:12]}…, "
            f"got one about {report.digest[:12]}…; evaluate it anew"
        )
    entry = _entry(report)
    others = [known for known in bundle.manifest.measured if _setting(known) != _setting(entry)]
    changes: dict[str, Any] = {"measured": (*others, entry)}
    try:
        if bundle.manifest.card is not None:
            path = bundle.path(bundle.manifest.card)
            _replace(path, with_report(path.read_text(encoding="utf-8"), report))
            changes["card"] = File(bundle.manifest.card.file, sha256_of(path))
        write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, **changes))
    except OSError as error:
        raise BundleError(f"bundle {bundle.folder}: can't be written: {error.strerror}") from None


def with_report(card: str, report: Report) -> str:
    """The model card with the report in place of an earlier one, or of 'not measured yet', or at its end."""
    section = f"{START}\n{render(report)}{END}\n"
    if START in card and END in card:
        before, rest = card.split(START, 1)
        return before + section.removesuffix("\n") + rest.split(END, 1)[1]
    card = NOT_MEASURED.sub("", card)
    before, heading, after = card.partition("## Measured\n")
    return f"{before}{heading}\n{section}\n{after.lstrip()}" if heading else f"{card}\n{section}"


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _entry(report: Report) -> dict[str, Any]:
    backend, version, precision, _ = report.judged_by.split(" ")
    rungs = {rung.name: rung.counts.expected for rung in (report.worst, *report.rungs)}
    return {
        "backend": backend,
        "version": version,
        "device": platform.processor() or platform.machine(),
        "precision": precision,
        "budget": report.budget,
        "norm": report.norm,
        "eps": report.eps,
        "seed": report.seed,
        "ladder": {name: msgspec.to_builtins(figure) for name, figure in rungs.items()},
        "failed_checks": [check.name for check in report.failed_checks],
    }


def _setting(entry: dict[str, Any]) -> tuple[object, ...]:
    return tuple(entry.get(key) for key in ("backend", "device", "precision", "budget", "norm", "eps"))
