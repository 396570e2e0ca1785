"""Data sets: files of CIFAR-10, SVHN and GTSRB, folders of pictures, banks and soft targets."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
from hypothesis import strategies as st
from scipy.io import savemat

from tests.fuzz import bar
from tests.fuzz.inputs import mutated
from trainer.data import open_dataset
from trainer.data.attack_bank import Bank
from trainer.data.soft_targets import SoftTargets

FILES = {
    "cifar10": ("cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-py/test_batch"),
    "svhn": ("svhn/test_32x32.mat",),
    "gtsrb": ("gtsrb/GTSRB/Final_Test/Images/GT-final_test.csv", "gtsrb/GTSRB/Final_Test/Images/00000.ppm"),
    "folders": ("test/cat/a.png", "test/cat/b.jpg", "test/dog/c.bmp"),
}


def prepare(folder: Path, stack: ExitStack) -> dict[str, bytes]:
    """A sound content for each file."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 3, 32, 32), np.uint8)
    rows = np.concatenate([np.arange(4, dtype=np.uint8)[:, None], pixels.reshape(4, -1)], 1)
    mat, bank = io.BytesIO(), io.BytesIO()
    savemat(mat, {"X": pixels.transpose(2, 3, 1, 0), "y": np.array([[1], [2], [10], [3]], np.uint8)})
    np.savez(bank, perturbations=np.zeros((4, 3, 8, 8), np.int8), digest="x", eps=0.03, steps=2)
    picture = pixels[0].transpose(1, 2, 0)
    batch = {b"data": pixels.reshape(4, -1), b"labels": [1, 2, 3, 4]}
    table = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n00000.ppm;32;32;1;1;30;30;5\n"
    return {
        "cifar-10-batches-bin/test_batch.bin": rows.tobytes(),
        "cifar-10-batches-py/test_batch": pickle.dumps(batch, 2),
        "svhn/test_32x32.mat": mat.getvalue(),
        "gtsrb/GTSRB/Final_Test/Images/GT-final_test.csv": table.encode(),
        **{name: _encoded(picture, Path(name).suffix) for names in FILES.values() for name in names
           if Path(name).suffix in (".png", ".jpg", ".bmp", ".ppm")},
        "bank.npz": bank.getvalue(),
    }  # fmt: skip


def _encoded(picture: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


def attempt(data: st.DataObject, shared: dict[str, bytes], folder: Path) -> None:
    name = data.draw(st.sampled_from([*FILES, "bank"]), "data set")
    if name == "bank":
        path = folder / "bank.npz"
        path.write_bytes(data.draw(st.one_of(mutated([shared["bank.npz"]]), st.binary(max_size=99))))
        loads: tuple[Callable[[Path], object], ...] = (Bank.load, SoftTargets.load)
        for load in loads:
            with bar.held(folder):
                load(path)
        return
    for file in FILES[name]:
        if data.draw(st.integers(0, 9)) == 0:
            continue
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.draw(mutated([shared[file], b""]), file))
    with bar.held(folder):
        opened = open_dataset(name, folder, "test", image_size=None if name != "folders" else 16)
        assert len(opened) == len(opened[:].targets)
