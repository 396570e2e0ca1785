"""What is found again, and what is made anew: damage, other code, another attack of the same name."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdk.errors import UsageError
from trainer.robustness.evaluation import store as stores
from trainer.robustness.evaluation.steps import Step, batch_name
from trainer.robustness.evaluation.store import Store, code_digest, syntax

BATCH = {"adversarial": torch.rand(2, 3, 4, 4), "chosen": torch.zeros(3, 2, dtype=torch.int64)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path, "key")
    found.save("batch", BATCH)
    return found


def test_finds_what_it_kept(store: Store) -> None:
    found = store.load("batch")
    assert found.keys() == BATCH.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in BATCH.items())
    assert store.load("absent") is None


def test_a_damaged_batch_is_made_anew(store: Store) -> None:
    """Cut short anywhere, or a byte changed anywhere, also in the tensors, where torch would not notice."""
    file = store.folder / "batch.pt"
    whole = file.read_bytes()
    for place in range(0, len(whole), 37):
        file.write_bytes(whole[:place])
        assert store.load("batch") is None
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        assert store.load("batch") is None
    file.write_bytes(whole)
    assert store.load("batch") is not None


def test_a_full_disk_is_one_line_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sdk.files.os.fsync", fail)
    with pytest.raises(UsageError, match=r"can't be written: No space left on device; finished batches"):
        store.save("other", BATCH)
    assert [file.name for file in store.folder.iterdir()] == ["batch.pt"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file: can't be written: Not a directory|file: .*File exists"):
        Store(tmp_path / "file", "key")


def test_another_key_has_another_folder(tmp_path: Path) -> None:
    assert Store(tmp_path, ("a", 1)).folder != Store(tmp_path, ("a", 2)).folder
    assert Store(tmp_path, ("a", 1)).folder == Store(tmp_path, ("a", 1)).folder


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of packages in place of the project's own."""
    for package in ("trainer", "sdk"):
        monkeypatch.setattr(getattr(stores, package), "__file__", str(tmp_path / package / "__init__.py"))
    return tmp_path


COUNTED = ("trainer/robustness/attacks/deep/new.py", "trainer/models/ren.py",
           "trainer/data/readers/cifar10.py", "sdk/draw.py", "sdk/preprocess.py")  # fmt: skip
FREE = ("trainer/cli/evaluation.py", "trainer/robustness/results/plots.py", "sdk/purifier.py",
        "trainer/robustness/evaluation/wording.py")  # fmt: skip


@pytest.mark.parametrize(("file", "counts"), [*((f, True) for f in COUNTED), *((f, False) for f in FREE)])
def test_code_that_decides_an_outcome_has_another_folder(file: str, counts: bool, code: Path) -> None:
    place = code / file
    place.parent.mkdir(parents=True)
    folders = []
    for text in ("x = 1\n", '"""Said otherwise."""\n\nx = 1  # and commented\n', "x = 2\n"):
        place.write_text(text)
        code_digest.cache_clear()
        folders.append(Store(code / "work", "key").folder)
    code_digest.cache_clear()
    assert folders[0] == folders[1]  # docstrings and comments decide nothing
    assert (folders[1] != folders[2]) == counts


def test_docstrings_of_functions_and_classes_decide_nothing() -> None:
    plain = 'class A:\n    b = "c"\n    def f(self):\n        return "d"\n'
    documented = plain.replace("A:\n", 'A:\n    """E."""\n').replace("):\n", '):\n        """G."""\n')
    assert syntax(plain) == syntax(documented)
    assert syntax(plain) != syntax(plain.replace('"d"', '"e"'))


def test_another_library_version_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Store(tmp_path, "key").folder
    monkeypatch.setattr(stores, "library_versions", lambda: ("torch 1.0",))
    assert Store(tmp_path, "key").folder != folder


def test_an_attack_made_otherwise_has_another_name_and_one_said_otherwise_has_not() -> None:
    step, rows = Step("pgd", None, 100, 16, says="PGD, 40 steps", made=(40,)), torch.arange(32, 48)
    assert batch_name(step, rows).startswith("pgd-00032-")
    start = torch.zeros(16, 3, 4, 4)
    names = [
        batch_name(step, rows),
        batch_name(replace(step, made=(20,)), rows),
        batch_name(replace(step, batch=8), rows),
        batch_name(step, rows + torch.arange(16)),
        batch_name(step, rows, start),
        batch_name(step, rows, start + 1),
    ]
    assert len(set(names)) == len(names)
    assert batch_name(replace(step, says="forty steps of PGD"), rows) == names[0]
