"""Strategies that the targets share: bytes and texts made from the corpus by mutation, and hostile values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CORPUS = Path(__file__).with_name("corpus")

TEXTS = (
    "", " ", "\0", "\x1b[2J", "\x9b31m", "‮", " ", "\ud800", "é" * 300, "a/../../b", "../outside",
    "/dev/zero", "a" * 5000, "%s%n", "{}", "[bold]x[/]", "${HOME}", "-", "--help", "\r\n", "NaN", "￾",
)  # fmt: skip
NUMBERS = (
    0,
    -1,
    1,
    2,
    255,
    2**31,
    2**63 - 1,
    2**63,
    2**64,
    10**40,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
)


def argument(value: object) -> str:
    """``value`` on a command line, where there is no NUL and any byte that is not UTF-8."""
    return os.fsdecode(str(value).replace("\0", "").encode(errors="surrogatepass"))


texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=40))
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.integers(), st.floats(), texts)
trees: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def corpus(name: str) -> list[bytes]:
    """The seed inputs of a target, each a file of ``tests/fuzz/corpus/NAME``."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes], pieces: tuple[bytes, ...] = ()) -> bytes:
    """One of ``seeds``, a few bytes changed, cut out, doubled or put in; ``pieces`` are likely insertions."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.integers(0, 5))
        if how == 0:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif how == 1:
            del data[at : at + draw(st.integers(1, 64))]
        elif how == 2:
            del data[at:]
        elif how == 3:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif how == 4 and pieces:
            data[at:at] = draw(st.sampled_from(pieces))
        else:
            data[at : at + 1] = bytes([draw(st.sampled_from([0, 1, 9, 10, 13, 34, 91, 127, 128, 255]))])
    return bytes(data)


def changed_somewhere(draw: Any, tree: Any) -> None:
    """Give one value of a tree of dicts and lists another value, take it out, or add one, in place."""
    inner: Any = tree
    for _ in range(draw(st.integers(0, 4))):
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        inside = [key for key in keys if isinstance(inner[key], (dict, list)) and inner[key]]
        if not inside:
            break
        inner = inner[draw(st.sampled_from(inside))]
    keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    how = draw(st.integers(0, 3))
    if keys and how < 2:
        inner[draw(st.sampled_from(keys))] = draw(trees)
    elif keys and how == 2:
        del inner[draw(st.sampled_from(keys))]
    elif isinstance(inner, dict):
        inner[draw(texts)] = draw(trees)
    else:
        inner.append(draw(trees))
