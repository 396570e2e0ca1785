"""The classifiers: published sizes, members on one trunk, and classifiers that a user brings."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sdk.errors import UsageError
from trainer import config
from trainer.models import build
from trainer.models.classifier import DiverseClassifier, Parts, SingleClassifier, edge_network
from trainer.models.resnet import PreactivationBlock, resnet18, wide_resnet


@pytest.mark.parametrize(
    ("make", "parameters", "macs"),
    [
        (resnet18, 11_173_962, 555_422_720),
        (wide_resnet, 36_479_194, 5_243_328_768),
        (edge_network, 1_289_354, 82_773_248),
    ],
    ids=["resnet18", "wrn-28-10", "edge"],
)
def test_size_is_as_stated(make: object, parameters: int, macs: int) -> None:
    with torch.device("meta"):
        network = DiverseClassifier(make(10), n_classes=10, n_classifiers=1).eval()
        image = torch.empty(1, 3, 32, 32)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        network.all_logits(image)
    assert counter.get_total_flops() == 2 * macs


@pytest.mark.parametrize(
    "parts",
    [
        lambda: edge_network(4, widths=(8, 8, 16), blocks=1),
        lambda: resnet18(4),
        lambda: wide_resnet(4, depth=10, factor=1),
        lambda: Parts(nn.Identity(), lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))),
    ],
    ids=["edge", "resnet18", "wide", "no trunk"],
)
def test_each_image_is_classified_by_its_own_member(parts: object) -> None:
    torch.manual_seed(0)
    classifier = DiverseClassifier(parts(), n_classes=4, n_classifiers=3).eval()
    images, member = torch.rand(5, 3, 16, 16), torch.tensor([2, 0, 2, 0, 0])  # member 1 gets none
    logits, every = classifier(images, member), classifier.all_logits(images)
    assert every.shape == (3, 5, 4)
    for row, j in enumerate(member):
        torch.testing.assert_close(logits[row], every[j, row])
        alone = SingleClassifier(classifier, int(j)).eval()
        torch.testing.assert_close(alone(images[row : row + 1])[0], every[j, row])
    assert not torch.allclose(every[0], every[2])


def test_a_wide_block_equals_its_formula() -> None:
    torch.manual_seed(0)
    block = PreactivationBlock(4, 6, 2).eval()
    block.norm1.running_mean.normal_()
    x = torch.randn(2, 4, 8, 8)
    active = ((x - block.norm1.running_mean[:, None, None]) / (1 + 1e-5) ** 0.5).clamp(min=0)
    inner = (nn.functional.conv2d(active, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5).clamp(
        min=0
    )
    expected = nn.functional.conv2d(inner, block.conv2.weight, padding=1)
    expected = expected + nn.functional.conv2d(active, block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("kind", ["resnet18", "wrn-28-10"])
def test_a_config_names_them(kind: str) -> None:
    tree = {"family": "none", "n_classes": 7, "classifier": {"kind": kind, "count": 1}}
    with torch.device("meta"):
        defence = build(msgspec.convert(tree, config.Model))
    assert defence.classifier.members[0][-1].out_features == 7
    assert (
        msgspec.convert(config.to_dict(msgspec.convert(tree, config.Model)), config.Model).classifier.kind
        == kind
    )


def test_logits_learn_the_main_colour() -> None:
    """The loss falls in a few steps; ResNet-18, slow to train, is made of the edge network's blocks."""
    torch.manual_seed(0)
    images = torch.rand(32, 3, 16, 16) / 2
    labels = torch.arange(32) % 3
    images[torch.arange(32), labels] += 0.4
    for parts in (edge_network(3, widths=(8, 8, 8), blocks=1), wide_resnet(3, depth=10, factor=1)):
        classifier = DiverseClassifier(parts, n_classes=3, n_classifiers=2)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=5e-3)
        losses = [step(classifier, optimizer, images, labels) for _ in range(8)]
        assert losses[-1] < 0.7 * losses[0]


def step(
    classifier: DiverseClassifier, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> float:
    member = torch.arange(len(images)) // 3 % 2
    loss = nn.functional.cross_entropy(classifier(images, member), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.fixture
def by_import_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    yield
    sys.modules.pop("foreign_classifiers", None)


@pytest.mark.usefixtures("by_import_path")
def test_a_module_of_ones_own_is_taken_by_import_path() -> None:
    defence = build(own("foreign_classifiers:Pooled", count=2))
    norm = defence.classifier.members[1].norm
    assert type(defence.classifier.members[1]).__name__ == "Pooled"
    assert norm.training
    assert norm.num_batches_tracked == 0
    draw = defence.draw(4, torch.Generator().manual_seed(0))
    assert defence(torch.rand(4, 3, 32, 32), draw).shape == (4, 10)


def test_a_module_in_the_working_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in a folder of pictures or downloads is no code of ours, whatever its name."""
    source = Path(__file__).parents[1].joinpath("foreign_classifiers.py").read_text()
    (tmp_path / "classifiers_lying_here.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with pytest.raises(UsageError, match=r"raised ModuleNotFoundError.*a folder of PYTHONPATH"):
        build(own("classifiers_lying_here:Pooled"))
    assert "classifiers_lying_here" not in sys.modules
    monkeypatch.syspath_prepend(str(tmp_path))  # as by PYTHONPATH: the user's own word
    defence = build(own("classifiers_lying_here:Pooled"))
    assert type(defence.classifier.members[0]).__name__ == "Pooled"
    sys.modules.pop("classifiers_lying_here")


@pytest.mark.usefixtures("by_import_path")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("foreign_classifiers", "expected package.module:factory"),
        (":Pooled", "expected package.module:factory"),
        ("no_such_package.inside:make", "importing no_such_package.inside raised ModuleNotFoundError"),
        ("foreign_classifiers:absent", "foreign_classifiers has no callable absent"),
        ("foreign_classifiers:NOT_CALLABLE", "foreign_classifiers has no callable NOT_CALLABLE"),
        ("foreign_classifiers:without_arguments", "calling it raised TypeError"),
        ("foreign_classifiers:a_number", "expected it to return a torch.nn.Module, got int"),
        ("foreign_classifiers:wants_grey", "given (2, 3, 32, 32), raised RuntimeError"),
        ("foreign_classifiers:one_class_short", "expected logits of shape (2, 10), got (2, 9)"),
        ("foreign_classifiers:two_outputs", "expected logits of shape (2, 10), got tuple"),
    ],
)
def test_what_is_no_such_module_is_refused_in_one_line(path: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)) as refused:
        build(own(path))
    assert str(refused.value).startswith(f"classifier {path!r}: ")
    assert "\n" not in str(refused.value)


def test_keys_that_do_not_fit_the_kind_are_refused() -> None:
    wrong = {
        "widths, blocks: expected none": {"kind": "resnet18", "blocks": 3},
        "factory: expected for the kind 'module'": {"factory": "a:b"},
        "factory: expected for the kind 'module' alone, got None": {"kind": "module"},
    }
    for message, section in wrong.items():
        with pytest.raises(msgspec.ValidationError, match=message):
            msgspec.convert({"family": "none", "classifier": section}, config.Model)


def own(path: str, *, count: int = 1) -> config.Model:
    section = {"kind": "module", "count": count, "factory": path}
    return msgspec.convert({"family": "none", "classifier": section}, config.Model)
