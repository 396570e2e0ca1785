"""Time from the start of ``edge-purify`` to its first result."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

import cv2

from sdk.benchmark.children import Child
from sdk.benchmark.report import Start
from sdk.benchmark.subject import Subject
from sdk.host.children import python_module

PROCESSES = 6


def start(subject: Subject) -> Start:
    """Seconds until ``edge-purify --source PICTURE --json -`` prints; a first process warms the caches."""
    with tempfile.TemporaryDirectory(prefix="edge-purify-") as folder:
        picture = Path(folder, "frame.png")
        cv2.imwrite(str(picture), subject.frame)
        seconds = [_first_result_s(subject, picture) for _ in range(PROCESSES)]
    return Start(tuple(seconds[1:]))


def _first_result_s(subject: Subject, picture: Path) -> float:
    options = {
        "--bundle": str(subject.bundle.folder),
        "--backend": "onnxruntime",
        "--precision": subject.precision,
        "--source": str(picture),
        "--json": "-",
    }
    began = perf_counter()
    with Child(
        "edge-purify", python_module("sdk.cli", *(word for pair in options.items() for word in pair))
    ) as child:
        child.hear()
        return perf_counter() - began
