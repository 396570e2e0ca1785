"""Pictures, and a Ray cluster of two workers for all tests that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdk.fleet import cluster

SIDE = 48


def picture(number: int) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    encoded: bytes = cv2.imencode(".png", pixels)[1].tobytes()
    return encoded


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of five pictures, one of them below another folder, and what else people have in folders."""
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    for number in (1, 2, 10, 11):
        (folder / f"p-{number}.png").write_bytes(picture(number))
    (folder / "below" / "p-3.png").write_bytes(picture(3))
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(picture(4))
    return folder


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """A real cluster of this machine."""
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'edge-purify[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "TRIES", 6)  # a busy machine starts slowly
        with cluster.open_cluster(cpus=2) as connected:
            yield connected


def processes(title: str) -> list[int]:
    """Workers of this test run's cluster, children of its raylet, whose title begins so."""
    numbers = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    return [
        number
        for number in numbers
        if _content(number, "cmdline").startswith(title) and _parent(_parent(number)) == os.getpid()
    ]


def _parent(process: int) -> int:
    """The number of a process's parent; 0 if it has ended."""
    fields = _content(process, "stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def _content(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text(errors="replace")
    except OSError:
        return ""  # it has ended
