"""Checkpoints: mutated bytes, and any value anywhere in what they hold."""

from __future__ import annotations

import copy
import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

from tests.fuzz import bar
from tests.fuzz.inputs import changed_somewhere, mutated
from tests.trainer.test_hostile_checkpoint import save_sound
from trainer import checkpoint


class Shared(NamedTuple):
    content: bytes
    state: dict[str, Any]


def prepare(folder: Path, stack: ExitStack) -> Shared:
    path = save_sound(folder / "sound.pt")
    return Shared(path.read_bytes(), torch.load(path, weights_only=True))


def attempt(data: st.DataObject, shared: Shared, folder: Path) -> None:
    path = folder / "checkpoint.pt"
    if data.draw(st.booleans(), "bytes"):
        path.write_bytes(data.draw(st.one_of(mutated([shared.content]), st.binary(max_size=100)), "file"))
    else:
        state = copy.deepcopy(shared.state)
        for _ in range(data.draw(st.integers(1, 3))):
            changed_somewhere(data.draw, state)
        stream = io.BytesIO()
        torch.save(state, stream)
        path.write_bytes(stream.getvalue())
    with bar.held(folder):
        assert checkpoint.load_defence(path).labels is not None
