"""Diagnostics, ``edge-purify doctor``: one Finding per check, with a suggested fix.

    report = examine("bundle/", selftest=True)
    print(report.healthy)

The self-test replays the bundle's golden outputs through every backend and precision that runs here, on the
path that a frame takes, and holds them to the exporter's bounds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing

import msgspec
from rich.console import Console

from sdk.backends import open_backend
from sdk.backends.plan_store import Host, build_command, find_engine
from sdk.bundle import Bundle, default_bundle
from sdk.choices import ENGINE_BACKENDS, ENGINE_NAMES, ONNX_BACKENDS, OnnxBackend, Precision
from sdk.doctor import checks
from sdk.doctor.checks import Finding, failure
from sdk.errors import BackendError, BundleError
from sdk.host.terminal import escape

Runnable = tuple[str, Precision]  # a backend and a precision of the bundle that it runs here


class Report(msgspec.Struct, frozen=True):
    """All findings, in the order that they were made."""

    bundle: str
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that is needed failed."""
        return all(finding.status != "failed" for finding in self.findings)


def examine(
    bundle: str | os.PathLike[str] | None = None,
    *,
    selftest: bool = False,
    require_signature: str | os.PathLike[str] | None = None,
) -> Report:
    """Check the machine, its libraries and a bundle. What is missing is a finding, not an error.

    Args:
        bundle: its folder; None takes the one in the package.
        selftest: run engines and compare their outputs with the golden ones; without it no engine runs.
        require_signature: PEM file of the public key that must have signed the bundle.

    Raises:
        UsageError: ``require_signature`` is no such file.
    """
    folder = default_bundle() if bundle is None else bundle
    on_gpu, hosts = checks.gpu()
    findings = [*checks.machine(), *checks.libraries(), checks.openvino(), *on_gpu]
    try:
        opened = Bundle.open(folder, public_key=require_signature)
        signed = f", signed by the key {opened.signed_by[:16]}…" if opened.signed_by else ""
        verified = f"{opened.manifest.name}, {opened.folder}, every file as it was written{signed}"
        findings.append(Finding("bundle", "ok", verified))
        findings += _of_bundle(opened, hosts, findings, selftest)
    except BundleError as error:
        findings.append(failure("bundle", error, "export the bundle again"))
    return Report(os.fspath(folder), tuple(findings))


def as_json(report: Report) -> str:
    """The report as indented JSON, with ``healthy``."""
    content = {"healthy": report.healthy, **msgspec.structs.asdict(report)}
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def show(report: Report) -> None:
    """Print the report on stdout: a line per finding, and its fix on the next."""
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        console.print(f"{_MARKS[finding.status]} {finding.name:<{width}}  {escape(finding.what)}")
        if finding.hint:
            console.print(f"{'':6} {'':<{width}}  [bold]fix:[/] {escape(finding.hint)}")
    n_failed = sum(finding.status == "failed" for finding in report.findings)
    console.print(
        f"{n_failed} of {len(report.findings)} failed" if n_failed else "nothing that is needed failed"
    )


_MARKS = {"ok": "[green]ok    [/]", "note": "[yellow]note  [/]", "failed": "[bold red]FAILED[/]"}


def _of_bundle(
    bundle: Bundle, hosts: Sequence[Host], found: Sequence[Finding], selftest: bool
) -> Iterator[Finding]:
    """What of the bundle runs here and, with ``selftest``, whether its outputs are right."""
    runnable: list[Runnable] = []
    precisions = bundle.manifest.precisions
    for name in ONNX_BACKENDS:
        if not any(finding.name == name and finding.status == "ok" for finding in found):
            continue
        yield Finding(f"engines {name}", "ok", f"{', '.join(precisions)} run here")
        runnable += [(name, precision) for precision in precisions]
        if len(precisions) > 1:
            yield _best_precision(bundle, name, selftest)
    for backend in ENGINE_BACKENDS:
        if backend not in {host.backend for host in hosts}:
            everything = build_command(bundle, backend, "fp32").removesuffix(" --precision fp32")
            where = f"where there is a GPU with {ENGINE_NAMES[backend]}: {everything}"
            yield Finding(f"engines {backend}", "note", "none run here", where)
    for host in hosts:
        for precision in precisions:
            finding = _built(bundle, host, precision)
            yield finding
            runnable += [(host.backend, precision)] if finding.status == "ok" else []
    if selftest:
        yield from (_self_test(bundle, backend, precision) for backend, precision in runnable)


def _best_precision(bundle: Bundle, backend: OnnxBackend, selftest: bool) -> Finding:
    """What ``precision="auto"`` takes in ``backend``, and why; measured only if engines may be run."""
    from sdk.backends import trial
    from sdk.backends.auto_precision import MARGIN, remembered

    name = f"precision auto {backend}"
    try:
        found = trial(bundle, backend) if selftest else remembered(bundle, backend)
        if found is None:
            measure = "edge-purify doctor --selftest, or the first run with it, measures it"
            return Finding(name, "note", "not measured on this machine yet", measure)
        chosen = found.chosen
    except (BackendError, BundleError) as error:
        return failure(name, error, "choose a --precision")
    rule = f"the most exact that is right, unless another saves {MARGIN:.0%}"
    return Finding(name, "ok", f"{chosen}, {rule}: a frame's engines take {found}")


def _built(bundle: Bundle, host: Host, precision: Precision) -> Finding:
    name = f"engines {host.backend} {precision}"
    engines = bundle.manifest.engines
    try:
        folders = {find_engine(bundle, engine, precision, host).plan.parent for engine in engines}
    except BackendError as error:
        return Finding(name, "note", error.what, error.hint)
    return Finding(name, "ok", f"{len(engines)} built, in {', '.join(map(str, sorted(folders)))}")


_REMEDIES = {
    "onnxruntime": "export the bundle again",
    "openvino": "use --backend onnxruntime",
    "tensorrt": "build the engines again",
    "tensorrt-rtx": "build the engines again",
}


def _self_test(bundle: Bundle, backend: str, precision: Precision) -> Finding:
    from sdk.backends.golden import Golden, replay

    name = f"self-test {backend} {precision}"
    try:
        with closing(open_backend(bundle, backend, precision)) as opened:
            golden = Golden.load(bundle, opened)
            deviations = replay(bundle, opened, golden)
    except (BackendError, BundleError) as error:
        return failure(name, error, f"don't use {precision} here")
    complaints = [found.complaint for found in deviations if found.complaint]
    if complaints:
        hint = f"don't use {precision} here; {_REMEDIES[backend]}"
        return Finding(name, "failed", "; ".join(complaints), hint)
    worst = max(deviations, key=lambda found: found.max_abs)
    n_draws = len(golden.image)
    return Finding(name, "ok", f"{n_draws} golden draws, at most {worst.max_abs:.1e} off ({worst.engine})")
