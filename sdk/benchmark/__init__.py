"""Benchmark of the runtime: its cost beyond the bare engines, held to bounds.

    report = run(only=["stages"], frames=300)
    gate(report)

A time depends on the machine, so every section compares two sides that take turns in one run, and the gate
holds their ratios.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import msgspec

from sdk.benchmark import endurance, unattended
from sdk.benchmark import frames as one_frame
from sdk.benchmark.bounds import OVERHEAD_BOUND, checks, gate
from sdk.benchmark.children import NotMeasured
from sdk.benchmark.first_result import start
from sdk.benchmark.report import Report, as_json
from sdk.benchmark.subject import Subject, check_size, load, natural_frame, open_bundle, parse_size
from sdk.benchmark.table import render
from sdk.benchmark.throughput import loop
from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.host.cpus import available_cpus
from sdk.host.hardware import has_exact_int8

__all__ = [
    "OVERHEAD_BOUND",
    "SECTIONS",
    "Report",
    "as_json",
    "gate",
    "natural_frame",
    "parse_size",
    "render",
    "run",
    "steps",
]

MAX_HOURS = 24.0 * 365
SECTIONS: dict[str, Callable[[Subject], Any]] = {
    "stages": one_frame.stages,
    "preprocess": one_frame.preprocess,
    "votes": one_frame.votes,
    "banks": one_frame.banks,
    "precisions": one_frame.precisions,
    "memory": endurance.memory,
    "loop": loop,
    "start": start,
}


def run(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    *,
    only: Sequence[str] = (),
    frames: int = 1000,
    votes: int = 1,
    precision: str = "auto",
    frame_size: tuple[int, int] = (1280, 720),
    soak: int | None = None,
    soak_hours: float | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Report:
    """Measure a bundle in ONNX Runtime on this machine.

    Args:
        bundle: a bundle or its folder; None takes the one in the package.
        only: the ``SECTIONS`` to measure; empty for all.
        frames: that the stages are timed on; other sections use a share of them.
        votes: draws per frame, of the stages and the loop.
        precision: as of ``Purifier.load``.
        frame_size: (width, height) in pixels.
        soak: this many frames through the loop as well; None leaves that out.
        soak_hours: so many hours of an unattended run, and nothing else unless ``only`` names it.
        on_step: called with its name as each of ``steps`` begins.

    Raises:
        UsageError: an argument is impossible.
        BundleError, BackendError: as ``Purifier.load``.
    """
    sections = _sections(only, soak_hours)
    if soak_hours is not None and not 0 < soak_hours <= MAX_HOURS:
        raise UsageError(f"--soak-hours: expected more than 0 and at most {MAX_HOURS:.0f}, got {soak_hours}")
    if frames < 1:
        raise UsageError(f"frames: expected >= 1, got {frames}")
    if soak is not None and soak < endurance.MIN_FRAMES:
        raise UsageError(f"--soak: expected at least {endurance.MIN_FRAMES} frames, got {soak}")
    opened = open_bundle(bundle)
    check_size(opened, frame_size)
    say = on_step or (lambda name: None)
    with closing(load(opened, precision)) as backend:
        subject = Subject(opened, backend, precision, natural_frame(*frame_size), votes, frames)
        found: dict[str, Any] = {}
        missing: dict[str, str] = {}
        measures = {name: SECTIONS[name] for name in sections}
        if soak is not None:
            measures["soak"] = lambda subject: endurance.soak(subject, soak, on_tenth=lambda: say("soak"))
        if soak_hours is not None:
            hours = soak_hours
            measures["unattended"] = lambda subject: unattended.soak_hours(
                subject, hours, on_interval=lambda: say("unattended")
            )
        for name, measure in measures.items():
            say(name)
            try:
                found[name] = measure(subject)
            except NotMeasured as reason:
                missing[name] = str(reason)
        report = Report(**_facts(subject), **found, not_measured=missing)
    return msgspec.structs.replace(report, checks=tuple(checks(report)))


def steps(only: Sequence[str], soak: int | None, soak_hours: float | None = None) -> int:
    """How often ``run`` calls ``on_step``."""
    n_steps = len(_sections(only, soak_hours))
    n_steps += 0 if soak is None else 1 + endurance.TENTHS
    return n_steps + (0 if soak_hours is None else 1 + unattended.INTERVALS)


def _sections(only: Sequence[str], soak_hours: float | None = None) -> list[str]:
    for name in only:
        if name not in SECTIONS:
            raise UsageError(f"--only {name}: expected one of {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in only or not (only or soak_hours)]


def _facts(subject: Subject) -> dict[str, Any]:
    image = subject.bundle.manifest.image
    return {
        "bundle": subject.bundle.manifest.name,
        "backend": subject.backend.name,
        "version": subject.backend.version,
        "precision": subject.backend.precision,
        "threads": subject.backend.threads,
        "cpus": available_cpus(),
        "exact_int8": has_exact_int8(),
        "image_width": image.width,
        "image_height": image.height,
        "frame_width": subject.frame_size[0],
        "frame_height": subject.frame_size[1],
        "frames": subject.frames,
    }
