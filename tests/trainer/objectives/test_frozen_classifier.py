"""Purifiers trained through a frozen classifier: by all recipes, and only if it knows the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from sdk.errors import UsageError
from tests.trainer.conftest import small
from trainer import checkpoint
from trainer import config as configs
from trainer.config import Config
from trainer.data import Images
from trainer.loop.errors import TrainingError
from trainer.loop.fit import fit
from trainer.models import build


@pytest.fixture(scope="module")
def classifier(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the digits, as a checkpoint: it knows nothing of a purifier."""
    config = small(
        "wrn-28-10-cifar10", "model.classifier={kind='edge', count=2}", "optimizer.epochs=8", *SHAPE
    )
    return fit(config, digits[:1200], digits[1200:], tmp_path_factory.mktemp("classifier"))


SHAPE = ("model.classifier.widths=[8,12,16]", "model.classifier.blocks=1")


def ren(classifier: Path, kind: str, *overrides: str, **recipe: Any) -> Config:
    """A REN before the digits' classifier, by another recipe than the config's."""
    config = small("ren-cifar10-edge-clean", f"start.classifier={classifier}", *overrides)
    tree = configs.to_dict(config)
    return configs.from_dict({**tree, "recipe": {"kind": kind, "eps": 0.03, **recipe}}, where="config")


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("clean", {"freeze_classifier": True}),
        ("adversarial", {"freeze_classifier": True, "probe_images": 64}),
        ("atop", {"probe_images": 64}),
    ],
)
def test_the_purifier_learns_and_the_classifier_stays(
    kind: str, recipe: dict[str, Any], classifier: Path, digits: Images, tmp_path: Path
) -> None:
    """Weights and norms' statistics to the bit, also in the average; resumed, too."""
    config = ren(classifier, kind, **recipe)
    fit(config, digits[:640], digits[1200:], tmp_path)
    state = checkpoint.load(tmp_path / "last.pt")
    before = checkpoint.load_defence(classifier).defence.classifier.state_dict()
    for weights in ("model", "averaged"):
        found = {name: value for name, value in state[weights].items() if name.startswith("classifier.")}
        for name, value in before.items():
            torch.testing.assert_close(found[f"classifier.{name}"], value, rtol=0, atol=1e-6, msg=name)
    untrained = small("ren-cifar10-edge-clean")
    start = build(untrained.model, seed=untrained.seed).purifier.state_dict()
    assert not torch.equal(state["model"]["purifier.dictionary"], start["dictionary"])


def test_atop_makes_a_ren_more_robust_before_a_frozen_classifier(
    classifier: Path, digits: Images, tmp_path: Path
) -> None:
    robust = []

    def report(progress: Any) -> None:
        if progress.validation:
            robust.append(progress.terms["cross_entropy"])

    overrides = ("optimizer.epochs=6", "optimizer.purifier_learning_rate=0.1", "loss.reconstruction=1.0")
    fit(ren(classifier, "atop", *overrides), digits[:1200], digits[1200:], tmp_path, report=report)
    assert robust[-1] < 0.97 * robust[0]


def test_a_classifier_that_does_not_know_the_images_stops_the_run(
    classifier: Path, digits: Images, tmp_path: Path
) -> None:
    """Its classes in another order than the folders': right on few, none of its own fault."""
    order = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 7, 8])  # one of ten is where it was
    for labels in ((digits.targets + 3) % 10, order[digits.targets]):
        images = Images(digits.pixels, labels, digits.labels)
        with pytest.raises(TrainingError, match=r"by chance it would be on 10\.0%") as caught:
            fit(ren(classifier, "atop"), images[:640], images[1200:], tmp_path / "run")
        assert "data.classes (the order of its classes)" in str(caught.value.hint)
        assert not (tmp_path / "run/last.pt").exists()


def test_a_classifier_of_ones_own_is_frozen_unless_asked() -> None:
    model = {"family": "ren", "classifier": {"kind": "module", "factory": "a:b"}}
    tree = {"name": "own", "data": {"name": "folders"}, "model": model}
    for recipe, expected in (
        ({"kind": "clean"}, True),
        ({"kind": "adversarial"}, True),
        ({"kind": "atop"}, True),
        ({"kind": "adversarial", "freeze_classifier": False}, False),
    ):
        assert configs.from_dict({**tree, "recipe": recipe}, where="config").freezes_classifier == expected
    plain = {**tree, "model": {**model, "family": "none"}, "recipe": {"kind": "clean"}}
    assert not configs.from_dict(plain, where="config").freezes_classifier
    edge = {**tree, "model": {"family": "ren"}, "recipe": {"kind": "adversarial"}}
    assert not configs.from_dict(edge, where="config").freezes_classifier


def test_what_does_not_go_with_a_frozen_classifier_is_refused() -> None:
    tree = {"name": "own", "data": {"name": "folders"}, "model": {"family": "none"}}
    with pytest.raises(UsageError, match=r"freeze_classifier: expected false for 'none'"):
        configs.from_dict({**tree, "recipe": {"kind": "clean", "freeze_classifier": True}}, where="config")
    recipe = {"kind": "adversarial", "freeze_classifier": True, "weight_perturbation": 0.1}
    with pytest.raises(UsageError, match=r"weight_perturbation: expected 0 with a frozen classifier"):
        configs.from_dict({**tree, "model": {"family": "ren"}, "recipe": recipe}, where="config")


def test_old_checkpoints_keep_their_meaning() -> None:
    """A recipe without the key decodes; an edge classifier is trained as before."""
    config = small("ren-cifar10-edge-at")
    tree = configs.to_dict(config)
    del tree["recipe"]["freeze_classifier"], tree["recipe"]["soft_targets"], tree["data"]["classes"]
    assert configs.from_dict(tree, where="config") == msgspec.structs.replace(config)
