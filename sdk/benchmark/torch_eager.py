"""The same frames through the bundle's twin in torch eager, in a process of the trainer's.

The runtime knows neither torch nor the trainer: the other side is a program that it starts by name, if it is
installed, and takes turns with.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import msgspec

from sdk.benchmark.children import Child, NotMeasured
from sdk.benchmark.report import Eager
from sdk.benchmark.subject import Subject
from sdk.benchmark.turns import Milliseconds, ours, quantiles, take_turns

PROGRAM = "trainer.eager"
SHARE = 3  # eager is slow: a third of the frames
IN_A_ROW = 50  # frames of one side: enough to find its own weights in the caches and its threads awake


class Greeting(msgspec.Struct, frozen=True):
    """What the program says when it is ready: torch's version, and the thread count that serves it best."""

    torch: str
    threads: int


def eager(subject: Subject) -> Eager:
    """A frame here and in torch eager: the same resize, draw, networks and softmax.

    Raises:
        NotMeasured: torch or the trainer is not installed, or the bundle has no twin.
    """
    if find_spec("torch") is None or find_spec("trainer") is None:
        raise NotMeasured("torch or the trainer is not installed; pip install 'edge-purify[train]'")
    if subject.bundle.manifest.twin is None:
        raise NotMeasured("the bundle has no torch twin")
    with tempfile.TemporaryDirectory(prefix="edge-purify-") as folder:
        picture = Path(folder, "frame.png")
        cv2.imwrite(str(picture), subject.frame)
        with Child(["-m", PROGRAM, str(subject.bundle.folder), str(picture)]) as child:
            greeting = msgspec.json.decode(child.hear(), type=Greeting)

            def other() -> Milliseconds:
                return {"total": float(child.ask())}

            sides = {"ours": ours(subject.purifier(), subject.frame), "eager": other}
            times = take_turns(sides, max(subject.frames // SHARE // IN_A_ROW, 1), calls=IN_A_ROW)
    return Eager(
        torch=greeting.torch,
        torch_threads=greeting.threads,
        ours=quantiles(times["ours"]["total"]),
        eager=quantiles(times["eager"]["total"]),
    )
