"""Mutations of a bundle, as an attacker would write it; each is made from a number alone."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sdk.bundle import sha256_of

MAX_SIZE = 64 << 20

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, "", "x", "\0", "\x1b[2J",
    "é" * 300, "../../etc/passwd", "/etc/passwd", "/dev/zero", "labels.txt", "onnx", ".", "..", "a/" * 3000,
    "fp32", [], {}, [[]], [1] * 1000, {"file": "labels.txt", "sha256": "0" * 64}, {"a": {"b": {}}},
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON tree."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "bundle.json"
    if not path.is_file() or path.stat().st_size > MAX_SIZE:
        raise ValueError("a mutation before made it enormous, or no file")
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def a_field(folder: Path, choose: random.Random) -> None:
    """Another value, or none, or one more, somewhere in the manifest."""

    def edit(tree: dict[str, Any]) -> None:
        *parents, key = choose.choice(places(tree))
        inner: Any = tree
        for parent in parents:
            inner = inner[parent]
        how = choose.random()
        if how < 0.2:
            del inner[key]
        elif how < 0.3 and isinstance(inner, dict):
            inner[choose.choice(["extra", "", "\0", "schema"])] = choose.choice(VALUES)
        else:
            inner[key] = choose.choice(VALUES)

    edit_manifest(folder, edit)


def a_text(folder: Path, choose: random.Random) -> None:
    """The manifest as bytes: cut, doubled, nested, not JSON, not UTF-8, enormous."""
    path = folder / "bundle.json"
    if not path.is_file() or path.stat().st_size > MAX_SIZE:
        raise ValueError("a mutation before made it enormous, or no file")
    raw = path.read_bytes()
    path.write_bytes(
        choose.choice(
            [
                raw[: choose.randrange(len(raw))],
                raw + raw,
                b"[" * choose.choice([100, 10_000, 1_000_000]),
                b'{"a":' * 5000,
                raw.replace(b'"name"', b'"name": "x", "name"'),
                b"\xef\xbb\xbf" + raw,
                raw.decode().encode("utf-16"),
                b"",
                b"\0" * 4096,
                b'{"schema": 1' + b" " * (20 << 20) + b"}",
                raw.replace(b'"schema"', b'"schem\\u0061"'),
                b'{"schema": ' + b"9" * 100_000 + b"}",
            ]
        )
    )


def some_bytes(folder: Path, choose: random.Random) -> None:
    """Bytes of one file changed, with hashes that fit."""
    path = choose.choice(files(folder))
    data = bytearray(path.read_bytes())
    for _ in range(choose.choice([1, 1, 3, 30])):
        if data:
            data[choose.randrange(len(data))] = choose.randrange(256)
    path.write_bytes(bytes(data))
    fit_hashes(folder)


def another_content(folder: Path, choose: random.Random) -> None:
    """One file cut, emptied, doubled, or replaced by another, with hashes that fit."""
    path = choose.choice(files(folder))
    data, other = path.read_bytes(), choose.choice(files(folder)).read_bytes()
    zeros = b"\0" * 100_000
    cut = data[: choose.randrange(len(data) + 1)]
    path.write_bytes(choose.choice([cut, b"", data + data, other, zeros, b"\xff" * 1000, data[::-1]]))
    fit_hashes(folder)


def a_size(folder: Path, choose: random.Random) -> None:
    """A file that claims to be enormous; it takes no room on the disk."""
    path = choose.choice([*files(folder), folder / "bundle.json"])
    os.truncate(path, choose.choice([1 << 31, 1 << 36, 1 << 42]))


def a_link(folder: Path, choose: random.Random) -> None:
    """Something else in a file's place: a link anywhere, a pipe, a folder, nothing."""
    path = choose.choice([*files(folder), folder / "bundle.json", folder / "onnx"])
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    how = choose.randrange(8)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.mkdir()
    elif how < 7:
        path.symlink_to(
            choose.choice(["/dev/zero", "/dev/full", "/proc/self/mem", path.name, "/", "/absent"])
        )


def an_archive(folder: Path, choose: random.Random) -> None:
    """Golden outputs that unpack to far more than they take, or hold other arrays than they should."""
    made = io.BytesIO()
    arrays = dict(np.load(folder / "golden.npz")) if (folder / "golden.npz").stat().st_size else {}
    name = choose.choice([*arrays, "extra"])
    array = arrays.get(name, np.zeros(3))
    changed = choose.choice(
        [
            array[:0],
            array.astype(np.float64) * np.nan,
            array.astype(np.int64) - 10**12,
            np.array(["text"]),
            array[None],
            np.asfortranarray(array),
            np.float32(1),
        ]
    )
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in (arrays | {name: changed}).items():
            with archive.open(f"{key}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)
        if choose.random() < 0.3:
            archive.writestr("bomb.npy", b"\0" * (300 << 20))
        if choose.random() < 0.3:
            header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % choose.choice(
                [2**40, 2**62]
            )
            padded = header + b" " * (64 - (len(header) + 11) % 64) + b"\n"
            archive.writestr("huge.npy", b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded)
    (folder / "golden.npz").write_bytes(made.getvalue())
    fit_hashes(folder)


MUTATIONS = (
    *(a_field, a_field, a_field, a_text, some_bytes, some_bytes),
    *(another_content, a_size, a_link, an_archive),
)
NOTHING_LEFT = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile,
    zlib.error, EOFError, MemoryError,
)  # fmt: skip


def files(folder: Path) -> list[Path]:
    """The files that aren't the manifest, nor enormous."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "bundle.json"]
    return [path for path in found if path.stat().st_size < MAX_SIZE]


def fit_hashes(folder: Path) -> None:
    """Write the present sha256 of every file into the manifest."""
    hashes = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files(folder)}

    def fit(tree: Any) -> None:
        if isinstance(tree, dict) and tree.get("file") in hashes:
            tree["sha256"] = hashes[tree["file"]]
        elif isinstance(tree, (dict, list)):
            for inner in tree.values() if isinstance(tree, dict) else tree:
                fit(inner)

    edit_manifest(folder, fit)


def mutate(folder: Path, seed: int) -> str:
    """Mutate the bundle in ``folder``; what was done, for a finding."""
    choose = random.Random(seed)
    done = [choose.choice(MUTATIONS)]
    if choose.random() < 0.2:
        done.append(choose.choice(MUTATIONS))
    for mutation in done:
        with suppress(*NOTHING_LEFT):  # of the second, where the first left nothing to change
            mutation(folder, choose)
    return f"{seed}: {', '.join(mutation.__name__ for mutation in done)}"
