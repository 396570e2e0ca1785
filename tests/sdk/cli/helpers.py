"""``edge-purify`` in a process of its own, and what it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from sdk.sinks.record import Record

Output = tuple[int, str, list[str]]  # exit code, standard output, lines on stderr but for ON_THE_CPU
ON_THE_CPU = "edge-purify: backend auto: no NVIDIA GPU here, so the CPU runs the engines, by onnxruntime"
COMMAND = [sys.executable, "-c", "from sdk.cli import main; main()"]


def read_records(path: Path) -> list[Record]:
    """A JSON file's frames, without the lines that tell of a source's state."""
    lines = path.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Record) for line in lines if not line.startswith(b'{"event":')]
