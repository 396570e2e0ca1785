"""Checkpoints as an attacker would write them: one line, nothing built or unpacked that they can't fill."""

from __future__ import annotations

import hashlib
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sdk.errors import EdgePurifyError
from trainer import checkpoint
from trainer.config import from_dict
from trainer.models import build

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "family": "ren",
        "image_size": 16,
        "n_classes": 4,
        "purifier": {"count": 2},
        "classifier": {"count": 2, "widths": [8, 8], "blocks": 1},
    },
    "data": {"name": "cifar10"},
    "recipe": {"kind": "clean"},
}


def save_sound(path: Path) -> Path:
    """A small checkpoint that is as it should be."""
    config = from_dict(CONFIG, where="test")
    state = {
        "config": CONFIG,
        "averaged": build(config.model, seed=0).state_dict(),
        "labels": list("abcd"),
        "provenance": {},
    }
    checkpoint.save(path, state)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_sound(tmp_path / "sound.pt")


def changed(path: Path, edit: Any) -> Path:
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path.with_name("changed.pt"))
    return path.with_name("changed.pt")


def set_model(section: str | None, **values: Any) -> Any:
    def edit(state: dict[str, Any]) -> None:
        model = state["config"]["model"]
        (model if section is None else model[section]).update(values)

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_model(None, image_size=10**9), "image_size"),
        (set_model(None, image_size=4000), "image_size|far larger"),
        (set_model(None, image_size=[4000, 4000]), "image_size|far larger"),
        (set_model(None, image_size=[16, 16, 16]), "image_size"),
        (set_model(None, image_size=[16, 0]), "image_size"),
        (set_model(None, n_classes=1 << 20, classifier={"widths": [4096, 4096]}), "far larger"),
        (set_model("purifier", count=1024, atoms=1 << 20), "image_size|far larger"),
        (set_model("classifier", count=1024, blocks=1024), "far larger"),
        (set_model("classifier", widths=[8] * 1000), "widths"),
        (set_model("classifier", widths=["8", None]), "widths"),
        (lambda state: state.update(labels=5), "array"),
        (lambda state: state.update(labels=[1, 2]), "str"),
        (lambda state: state.update(provenance=[1]), "object"),
        (lambda state: state.update(averaged=7), "object"),
        (lambda state: state["averaged"].update({"purifier.dictionary": "text"}), "Tensor"),
        (lambda state: state["averaged"].update({"purifier.probe": torch.zeros(1).expand(9)}), "size|Error"),
        (lambda state: state.update(config=[1]), "a section"),
        (lambda state: state.pop("config"), "config"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(path: Path, edit: Any, words: str) -> None:
    with pytest.raises(EdgePurifyError, match=words) as caught:
        checkpoint.load_defence(changed(path, edit))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("checkpoint ")


def test_the_memory_stays_bounded(path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load_defence(changed(path, set_model("classifier", widths=[65536, 65536], blocks=64)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10, "KiB"


def test_a_compressed_file_is_not_unpacked(path: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(path) as stored,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name) if "/data/" not in name else bytes(1 << 18))
    with pytest.raises(checkpoint.CheckpointError, match="not readable as a torch file"):
        checkpoint.load_defence(tmp_path / "bomb.pt")


def test_its_digest_is_that_of_the_bytes_that_were_read(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.load_defence(path).digest == digest
