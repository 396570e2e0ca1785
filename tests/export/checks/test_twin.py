"""The twin comes back from the bundle bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sdk.bundle import Bundle
from sdk.errors import BundleError
from tests.export.spoil import edit_manifest
from trainer.models.twin import read_attackable, read_twin, save_twin


def test_the_twin_is_what_was_exported_bit_for_bit(bundle: Bundle, loaded: Any) -> None:
    twin = read_twin(bundle)
    exported, rebuilt = loaded.defence.state_dict(), twin.state_dict()
    assert list(rebuilt) == list(exported)
    for name, value in exported.items():
        assert rebuilt[name].dtype is value.dtype
        assert torch.equal(rebuilt[name], value), name
    assert twin.random_input.take == loaded.defence.random_input.take == 18
    assert not any(module.training for module in twin.modules())


def test_float16_is_stored_where_it_is_exact_and_only_there(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "twin.safetensors"
    save_twin(loaded.defence, path)
    stored = safetensors.torch.load_file(path)
    assert stored["purifier.dictionary"].dtype is torch.float16
    assert stored["classifier.trunk.0.weight"].dtype is torch.float16
    assert stored["purifier.lambda_max"].dtype is torch.float32  # a computed value, rounded to nothing
    assert stored["classifier.trunk.1.num_batches_tracked"].dtype is torch.int64
    for name, value in loaded.defence.state_dict().items():
        assert torch.equal(stored[name].to(value.dtype), value), name


def test_a_bundle_without_a_twin_says_so(folder: Path) -> None:
    edit_manifest(folder, lambda tree: tree.pop("twin"))
    with pytest.raises(BundleError, match="it has no twin"):
        read_twin(Bundle.open(folder))


def test_a_twin_may_not_name_code_to_run(folder: Path) -> None:
    classifier = {"kind": "module", "factory": "antigravity:fly"}
    edit_manifest(folder, lambda tree: tree["twin"]["config"].update(classifier=classifier))
    with pytest.raises(BundleError, match="code that reading it would run"):
        read_twin(Bundle.open(folder))


def test_a_classifier_whose_code_is_elsewhere_is_attacked_through_its_graph(
    folder: Path, loaded: Any
) -> None:
    """Nothing is imported from where the bundle says."""
    classifier = {"kind": "module", "factory": "antigravity:fly"}
    edit_manifest(folder, lambda tree: tree["twin"]["config"].update(classifier=classifier))
    attackable = read_attackable(Bundle.open(folder))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    draw = loaded.defence.draw(3, torch.Generator().manual_seed(1))
    logits = attackable(images, draw)
    assert torch.allclose(logits, loaded.defence(images, draw), atol=1e-4)
    logits.square().sum().backward()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("n_classes", 5, "size mismatch"),
        ("n_classes", "five", r"Expected `int`"),
        ("colour", 1, "unknown field `colour`"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_one_clear_line(
    folder: Path, key: str, value: Any, complaint: str
) -> None:
    edit_manifest(folder, lambda tree: tree["twin"]["config"].update({key: value}))
    with pytest.raises(BundleError, match=rf"twin\.safetensors doesn't fit .*{complaint}") as caught:
        read_twin(Bundle.open(folder))
    assert "\n" not in str(caught.value)
