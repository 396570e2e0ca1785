"""Configurations: of training, and files of options for the loop."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner
from hypothesis import strategies as st

from sdk.cli import main as edge_purify
from tests.fuzz import bar
from tests.fuzz.inputs import TEXTS, argument, changed_somewhere, corpus, mutated, texts, trees
from trainer import config as configs

PIECES = (
    b"[",
    b"]",
    b"{",
    b"=",
    b'"',
    b"9" * 5000,
    b"[" * 3000,
    b"\n",
    b"inf",
    b"nan",
    b"1979-05-27",
    b"'''",
)
KEYS = ("votes", "camera", "min-score", "json", "save", "backend", "roi", "seed", "verbose", "config", "show")


def prepare(folder: Path, stack: ExitStack) -> dict[str, Any]:
    path = folder / "tiny.toml"
    path.write_bytes(corpus("configs")[0])
    return configs.to_dict(configs.load(path))


def attempt(data: st.DataObject, shared: dict[str, Any], folder: Path) -> None:
    path = folder / "config.toml"
    content = data.draw(st.one_of(mutated(corpus("configs"), PIECES), st.binary(max_size=100)), "config")
    path.write_bytes(content)
    overrides = data.draw(
        st.lists(
            st.one_of(texts, st.sampled_from(["model.image_size=0", "a.b.c=[", "=1", "optimizer=1"])),
            max_size=2,
        )
    )
    with bar.held(folder):
        configs.load(path, tuple(overrides))
    tree = msgspec.json.decode(msgspec.json.encode(shared))
    changed_somewhere(data.draw, tree)
    with bar.held(folder):
        configs.from_dict(tree, where="config")
    options = folder / "options.toml"
    made = mutated(corpus("options"), (*PIECES, *(key.encode() + b" = " for key in KEYS)))
    options.write_bytes(data.draw(made, "options"))
    with bar.held(folder):
        _run(folder, ["--config", str(options), "--source", str(folder / "absent.mp4")])
    value = data.draw(st.one_of(trees, st.sampled_from(TEXTS)), "value")
    key = data.draw(st.sampled_from(KEYS), "option")
    with bar.held(folder):
        _run(folder, [f"--{key}", argument(value), "--source", str(folder / "absent")])


def _run(folder: Path, arguments: list[str]) -> None:
    here = Path.cwd()
    os.chdir(folder)  # which relative names are in
    try:
        done = CliRunner().invoke(edge_purify, arguments)
    finally:
        os.chdir(here)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert done.exit_code in (0, 1, 2), done.exit_code
    assert len(errors) == (done.exit_code != 0), done.stderr
