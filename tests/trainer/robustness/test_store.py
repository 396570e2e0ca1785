"""What is found again, and what is made anew: damage, other code, another attack of the same name."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdk.errors import UsageError
from trainer.robustness.evaluation import store as stores
from trainer.robustness.evaluation.ladder import Step, batch_name
from trainer.robustness.evaluation.store import Store, code_digest

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


def test_changed_attacks_or_models_have_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "trainer"
    files = [root / "robustness" / "attacks.py", root / "models" / "ren.py", root / "cli.py"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
    monkeypatch.setattr(stores.trainer, "__file__", str(root / "__init__.py"))

    def folder() -> Path:
        code_digest.cache_clear()
        return Store(tmp_path / "work", "key").folder

    try:
        folders = [folder()]
        for file in files:
            file.write_text("x = 2\n")
            folders.append(folder())
    finally:
        code_digest.cache_clear()
    assert len(set(folders[:3])) == 3
    assert folders[3] == folders[2]  # the command line attacks nothing


def test_an_attack_made_otherwise_has_another_name() -> None:
    step = Step("pgd", "PGD, 40 steps", None, 100, 16)
    assert batch_name(step, 32).startswith("pgd-00032-")
    names = {
        batch_name(one, 32) for one in (step, replace(step, says="PGD, 20 steps"), replace(step, batch=8))
    }
    assert len(names) == 3
