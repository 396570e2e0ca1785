"""JSON lines: whatever a result, a source or an event holds, each is one line of JSON without controls."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from sdk.draw import Draw
from sdk.result import Result, Timings
from sdk.sinks import JsonLines
from sdk.sources import Frame, Roi
from sdk.sources.state import SourceEvent, SourceState
from tests.fuzz import bar
from tests.fuzz.inputs import texts

floats = st.one_of(st.floats(), st.sampled_from([0.5, -0.0, 1e-320, 1e308]))
labels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)  # as UTF-8 can hold it


def prepare(folder: Path, stack: ExitStack) -> None:
    return None


@st.composite
def results(draw: st.DrawFn, names: list[str]) -> Result:
    """A result with anything in it."""
    skipped = draw(st.booleans())
    n = len(names)
    probabilities = np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n)), np.float32)
    return Result(
        label=None if skipped else draw(st.sampled_from(names)),
        score=None if skipped else draw(floats),
        probabilities=None if skipped else probabilities,
        draws=(Draw(0, draw(labels), 0, draw(labels), {}, False),) * draw(st.integers(0, 2)),
        timings=Timings(*(draw(floats) for _ in range(5))),
        seeded=draw(st.booleans()),
        error=draw(texts) if skipped else None,
        suspicion=draw(st.one_of(st.none(), floats)),
    )


def attempt(data: st.DataObject, shared: None, folder: Path) -> None:
    names = data.draw(st.lists(labels, min_size=1, max_size=5))
    path = folder / data.draw(st.sampled_from(["out.jsonl", "ä.jsonl", "no/such/folder.jsonl", "x" * 300]))
    lines = 0
    with bar.held(folder), JsonLines(path, names) as sink:
        for _ in range(data.draw(st.integers(0, 3))):
            roi = data.draw(st.sampled_from([None, Roi(0, 0, 2, 2)]))
            time_s = data.draw(st.one_of(st.none(), floats))
            frame = Frame(
                np.zeros((2, 2, 3), np.uint8), data.draw(st.integers(0, 2**63)), data.draw(texts), time_s, roi
            )
            sink.write(frame, data.draw(results(names)))
            lines += 1
            event = SourceEvent(data.draw(texts), SourceState.FAILED, data.draw(texts))
            sink.source_changed(event)
            lines += 1
    if not os.path.exists(path):  # noqa: PTH110 - a name that is too long is none
        return
    content = path.read_bytes().decode()
    assert content.count("\n") == lines == len(content.splitlines())
    assert not any(ord(character) < 32 for character in content.replace("\n", ""))
    for line in content.splitlines():
        decoded = json.loads(line, parse_constant=lambda name: math.nan / 0 if name else None)
        assert isinstance(decoded, dict)
