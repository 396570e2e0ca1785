"""A verification as a file that machines read: JSON, or the JUnit XML that CI servers show."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec

from export.checks.outcome import Verification, findings
from sdk.bundle import Bundle
from sdk.bundle.deviation import Deviation
from sdk.errors import UsageError
from sdk.files import write_output

SUFFIXES = (".json", ".xml")


def check_report(path: Path, *, replaces: Path | None = None) -> None:
    """Refuse a report that could not be written or would not last, before the work that it reports on.

    Args:
        replaces: the folder that the work puts another in place of.

    Raises:
        UsageError: another suffix than ``SUFFIXES``, no such folder, or one that is replaced.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--report {path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UsageError(f"--report {path}: the folder {path.parent} doesn't exist", hint="create it first")
    if replaces is not None and path.resolve().is_relative_to(replaces.resolve()):
        raise UsageError(
            f"--report {path}: lies in {replaces}, which is replaced as a whole",
            hint="give a place outside it",
        )


def write_report(path: Path, bundle: Bundle, found: Verification) -> None:
    """Write ``found`` to ``path``: JSON or JUnit XML, by its suffix.

    Raises:
        UsageError: it can't be written.
    """
    check_report(path)
    try:
        write_output(path, to_json(bundle, found) if path.suffix == ".json" else to_junit(bundle, found))
    except OSError as error:
        raise UsageError(f"--report {path}: can't be written: {error.strerror}") from None


def to_json(bundle: Bundle, found: Verification) -> bytes:
    """One object: the verification's fields, and ``passed`` with the complaints beside it."""
    complaints = [finding.complaint for finding in findings(found) if finding.complaint]
    tree = {
        "bundle": bundle.manifest.name,
        "digest": bundle.digest,
        "passed": not complaints,
        "complaints": complaints,
        **msgspec.to_builtins(found),
    }
    return msgspec.json.format(msgspec.json.encode(tree), indent=1) + b"\n"


def to_junit(bundle: Bundle, found: Verification) -> bytes:
    """One test case for everything that was held to a bound."""
    cases = [*findings(found)]
    failures = sum(finding.complaint is not None for finding in cases)
    suite = ElementTree.Element(
        "testsuite", name=f"edge-export {bundle.manifest.name}", tests=str(len(cases)), failures=str(failures)
    )
    for finding in cases:
        what = finding.against if isinstance(finding, Deviation) else "accuracy"
        detail = finding.output if isinstance(finding, Deviation) else getattr(finding, "says", "")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"{finding.precision}.{finding.engine}{'.cpu' if finding.kind == 'cpu' else ''}",
            name=f"{detail}: {what}",
        )
        if finding.complaint:
            ElementTree.SubElement(case, "failure", message=finding.complaint)
    ElementTree.indent(suite)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"
