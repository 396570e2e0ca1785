"""``edge-purify doctor``: what this machine has, what of a bundle runs here, and how to mend what doesn't.

    report = examine("bundle/", selftest=True)
    print(report.healthy)

The self-test replays the bundle's golden outputs through every backend and precision that runs here, by the
same path as a frame takes, and holds them to the bounds that the exporter holds engines to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import get_args

import msgspec
from rich.console import Console
from rich.markup import escape

from sdk import checkup
from sdk.backends import open_backend
from sdk.bundle import Bundle, Precision, default_bundle
from sdk.checkup import Finding, failure
from sdk.engines import NAMES, EngineBackend, Host, build_command, find_engine
from sdk.errors import BackendError, BundleError

Runnable = tuple[str, Precision]  # a backend and a precision of the bundle that it runs here


class Report(msgspec.Struct, frozen=True):
    """All findings, in the order that they were made."""

    bundle: str
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that is needed failed."""
        return all(finding.status != "failed" for finding in self.findings)


def examine(bundle: str | os.PathLike[str] | None = None, *, selftest: bool = False) -> Report:
    """Look at the machine, its libraries, and a bundle, by default the one in the package.

    Nothing raises: what can't be had is a finding.  ``selftest`` runs engines; without it nothing is run.
    """
    folder = default_bundle() if bundle is None else bundle
    on_gpu, hosts = checkup.gpu()
    findings = [*checkup.machine(), *checkup.libraries(), *on_gpu]
    try:
        opened = Bundle.open(folder)
        verified = f"{opened.manifest.name}, {opened.folder}, every file as it was written"
        findings.append(Finding("bundle", "ok", verified))
        findings += _of_bundle(opened, hosts, findings, selftest)
    except BundleError as error:
        findings.append(failure("bundle", error, "export the bundle anew"))
    return Report(os.fspath(folder), tuple(findings))


def as_json(report: Report) -> str:
    """The report as indented JSON, with ``healthy``."""
    content = {"healthy": report.healthy, **msgspec.structs.asdict(report)}
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def show(report: Report) -> None:
    """Print the report on stdout, a line a finding, and one more where there is something to mend."""
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        console.print(f"{_MARKS[finding.status]} {finding.name:<{width}}  {escape(finding.detail)}")
        if finding.mend:
            console.print(f"{'':6} {'':<{width}}  [bold]mend:[/] {escape(finding.mend)}")
    n_failed = sum(finding.status == "failed" for finding in report.findings)
    console.print(
        f"{n_failed} of {len(report.findings)} failed" if n_failed else "nothing that is needed failed"
    )


_MARKS = {"ok": "[green]ok    [/]", "note": "[yellow]note  [/]", "failed": "[bold red]FAILED[/]"}


def _of_bundle(
    bundle: Bundle, hosts: Sequence[Host], found: Sequence[Finding], selftest: bool
) -> Iterator[Finding]:
    """What of the bundle runs here and, on request, whether it runs rightly."""
    runnable: list[Runnable] = []
    if any(finding.name == "onnxruntime" and finding.status == "ok" for finding in found):
        precisions = ", ".join(_precisions(bundle))
        yield Finding("engines onnxruntime", "ok", f"{precisions} run here")
        runnable += [("onnxruntime", precision) for precision in _precisions(bundle)]
    for backend in get_args(EngineBackend):
        if backend not in {host.backend for host in hosts}:
            everything = build_command(bundle, backend, "fp32").removesuffix(" --precision fp32")
            where = f"where there is a GPU with {NAMES[backend]}: {everything}"
            yield Finding(f"engines {backend}", "note", "none run here", where)
    for host in hosts:
        for precision in _precisions(bundle):
            finding = _built(bundle, host, precision)
            yield finding
            runnable += [(host.backend, precision)] if finding.status == "ok" else []
    if selftest:
        yield from (_self_test(bundle, backend, precision) for backend, precision in runnable)


def _precisions(bundle: Bundle) -> list[Precision]:
    """Those that every engine of the bundle has."""
    engines = (*bundle.manifest.purifiers, *bundle.manifest.classifiers)
    known: tuple[Precision, ...] = get_args(Precision)
    return [precision for precision in known if all(precision in engine.onnx for engine in engines)]


def _built(bundle: Bundle, host: Host, precision: Precision) -> Finding:
    name = f"engines {host.backend} {precision}"
    engines = (*bundle.manifest.purifiers, *bundle.manifest.classifiers)
    try:
        folders = {find_engine(bundle, engine, precision, host).plan.parent for engine in engines}
    except BackendError as error:
        what, _, mend = str(error).rpartition("; build it: ")
        return Finding(name, "note", what or str(error), mend if what else None)
    return Finding(name, "ok", f"{len(engines)} built, in {', '.join(map(str, sorted(folders)))}")


def _self_test(bundle: Bundle, backend: str, precision: Precision) -> Finding:
    from sdk.golden import Golden, replay

    name = f"self-test {backend} {precision}"
    try:
        golden = Golden.load(bundle)
        with closing(open_backend(bundle, backend, precision)) as opened:
            deviations = replay(bundle, opened, golden)
    except (BackendError, BundleError) as error:
        return failure(name, error, f"don't use {precision} here")
    complaints = [found.complaint for found in deviations if found.complaint]
    if complaints:
        rebuild = "build the engines again" if backend.startswith("tensorrt") else "export the bundle anew"
        return Finding(name, "failed", "; ".join(complaints), f"don't use {precision} here; {rebuild}")
    worst = max(deviations, key=lambda found: found.max_abs)
    n_draws = len(golden.image)
    return Finding(name, "ok", f"{n_draws} golden draws, at most {worst.max_abs:.1e} off ({worst.engine})")
