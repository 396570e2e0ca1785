"""What an evaluation leaves in the bundle that it is about.

The report goes into ``measured`` of bundle.json and into the model card, the gate's record into a file.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from sdk.bundle import Bundle, File, write_file, write_manifest
from sdk.bundle.manifest import Calibration
from sdk.bundle.sections import with_section
from sdk.bundle.signature import sign_again
from sdk.errors import BundleError, UsageError
from trainer.robustness.evaluation.budgets import BUDGETS
from trainer.robustness.evaluation.report import Report
from trainer.robustness.results.markdown import may_be_quoted, render
from trainer.robustness.results.record import Record, to_bytes

log = logging.getLogger(__name__)

RECORD = "robustness.npz"


def into_bundle(report: Report, bundle: Bundle, *, quick_too: bool = False) -> None:
    """Add the report to ``bundle`` on disk, in place of an earlier one of the same setting.

    With ``quick_too`` a budget too small to quote will do; the card says that it is one.

    The bundle's digest changes with it, so a signature of it is removed; its engines and their hashes stay.

    Raises:
        UsageError: the report is about another bundle, doesn't name its engines, or is of a budget too small
            to quote.
        BundleError: the folder can't be written.
    """
    if report.digest != bundle.digest:
        raise UsageError(
            f"bundle {bundle.folder}: expected a report about its bundle.json, sha256 {bundle.digest[:12]}…, "
            f"got one about {report.digest[:12]}…",
            hint="evaluate it again",
        )
    if not quick_too:
        check_publishable(report.budget, report.worst is not None)
    entry = _entry(report)
    others = [known for known in bundle.manifest.measured if _setting(known) != _setting(entry)]
    with _writing(bundle) as changes:
        changes["measured"] = (*others, entry)
        if bundle.manifest.card is not None:
            changes["card"] = _rewritten(bundle, bundle.manifest.card, lambda card: with_report(card, report))


def check_publishable(budget: str, attacks: bool) -> None:
    """Refuse a budget whose per-image worst is not to be quoted.

    Raises:
        UsageError: it is one of these, and something was attacked.
    """
    if attacks and not may_be_quoted(budget):
        quotable = [each.name for each in BUDGETS.values() if each.is_headline and len(each.rungs) > 1]
        raise UsageError(
            f"--into-bundle: the budget {budget} attacks too few images too weakly for a figure to quote",
            hint=f"give --budget {' or '.join(quotable)}",
        )


def record_into_bundle(record: Record, bundle: Bundle) -> None:
    """Put ``record`` into ``bundle`` on disk, in place of an earlier one; this too changes its digest.

    Raises:
        BundleError: the folder can't be written.
    """
    with _writing(bundle) as changes:
        changes["robustness"] = write_file(bundle.folder, RECORD, to_bytes(record))


def calibrate_bundle(bundle: Bundle, temperature: float, says: str) -> None:
    """Give ``bundle`` on disk a temperature for its scores, and its model card the words ``says``.

    Raises:
        BundleError: the folder can't be written.
    """
    with _writing(bundle) as changes:
        changes["calibration"] = Calibration(temperature)
        if bundle.manifest.card is not None:
            changes["card"] = _rewritten(
                bundle,
                bundle.manifest.card,
                lambda card: with_section(card, "calibration", f"{says}\n", after="## Measured"),
            )


def section_into_card(
    bundle: Bundle, name: str, content: str, pictures: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Put ``content`` into the model card of ``bundle`` on disk, as section ``name`` of what was measured.

    Args:
        pictures: files that it shows, by their paths in the bundle, which its manifest then lists.

    Raises:
        BundleError: the folder can't be written.
    """
    card = bundle.manifest.card
    if card is None:
        return
    with _writing(bundle) as changes:
        changes["card"] = _rewritten(
            bundle, card, lambda text: with_section(text, name, content, after="## Measured")
        )
        others = [known for known in bundle.manifest.pictures if known.file not in pictures]
        shown = [write_file(bundle.folder, file, pictures[file]) for file in pictures]
        changes["pictures"] = (*others, *shown)


def with_report(card: str, report: Report) -> str:
    """The model card with the report in place of an earlier one, or of the words that there is none yet."""
    return with_section(card, "robustness", render(report), after="## Measured")


def _rewritten(bundle: Bundle, card: File, edit: Callable[[str], str]) -> File:
    """Edit the model card on disk: the text that was verified, and the hash of the text that was written."""
    try:
        text = bundle.read(card).decode("utf-8")
    except UnicodeDecodeError:
        raise BundleError(f"bundle {bundle.folder}: {card.file}: expected UTF-8 text") from None
    return write_file(bundle.folder, card.file, edit(text).encode())


@contextmanager
def _writing(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """Collects changes of the manifest, then writes it."""
    was_signed, changes = bundle.has_signature, dict[str, Any]()
    try:
        yield changes
        write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, **changes))
    except OSError as error:
        raise BundleError(f"bundle {bundle.folder}: can't be written: {error.strerror}") from None
    if was_signed:
        log.warning("%s", sign_again(bundle.folder))


def _entry(report: Report) -> dict[str, Any]:
    if report.engines is None:
        raise UsageError("the report doesn't say which engines it is about", hint="evaluate the bundle again")
    named = report.rungs if report.worst is None else (report.worst, *report.rungs)
    rungs = {rung.name: rung.counts.expected for rung in named}
    return {
        "backend": report.engines.backend,
        "version": report.engines.version,
        "device": platform.processor() or platform.machine(),
        "precision": report.engines.precision,
        "budget": report.budget,
        "norm": report.norm,
        "eps": report.eps,
        "seed": report.seed,
        "ladder": {name: msgspec.to_builtins(figure) for name, figure in rungs.items()},
        "failed_checks": [check.name for check in report.failed_checks],
    }


def _setting(entry: dict[str, Any]) -> tuple[object, ...]:
    return tuple(entry.get(key) for key in ("backend", "device", "precision", "budget", "norm", "eps"))
