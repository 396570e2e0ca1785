"""Where a run starts: another run, its features alone, a narrower network, or a bundle's twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sdk.bundle import Bundle, default_bundle
from sdk.errors import BundleError, UsageError
from tests.trainer.conftest import small
from trainer import checkpoint
from trainer import config as configs
from trainer.config import Config, Start
from trainer.data import Images
from trainer.loop.fit import fit
from trainer.loop.warm_start import begin
from trainer.models import Defence, build
from trainer.models.classifier import ResidualBlock


def saved(path: Path, config: Config, n_classes: int = 10) -> Defence:
    """An untrained checkpoint whose norms are not trivial, so that a lost channel shows."""
    defence = build(config.model, seed=3)
    generator = torch.Generator().manual_seed(0)
    for value in defence.classifier.parameters():
        if value.dim() == 1:
            value.data.add_(0.3 * torch.rand(value.shape, generator=generator))
    for name, value in defence.classifier.named_buffers():
        if "running" in name:
            value.add_(0.3 * torch.rand(value.shape, generator=generator))
    checkpoint.finish(defence)
    state = {"config": configs.to_dict(config), "averaged": defence.state_dict(), "provenance": {"epochs": 1}}
    checkpoint.save(path, {**state, "labels": [str(i) for i in range(n_classes)]})
    return defence


def run_config(**start: Any) -> Config:
    return small("ren-cifar10-edge-clean", *(f"start.{key}={value}" for key, value in start.items()))


def test_features_are_all_of_the_classifier_but_its_last_linear_layers(tmp_path: Path) -> None:
    source = saved(tmp_path / "source.pt", small("ren-cifar10-edge-clean"))
    config = small("ren-cifar10-edge-clean", "model.n_classes=43")
    untouched, started = build(config.model, seed=7), build(config.model, seed=7)
    ancestors = begin(started, Start(features=str(tmp_path / "source.pt")))
    last = {f"members.{j}.3.{part}" for j in range(2) for part in ("weight", "bias")}
    for name, value in started.classifier.state_dict().items():
        expected = untouched if name in last else source
        assert torch.equal(value, expected.classifier.state_dict()[name]), name
    assert ancestors == {"ren-cifar10-edge-stage-1": {"epochs": 1}}
    with pytest.raises(UsageError, match=r"start\.classifier .*expected \(43,\), got \(10,\)"):
        begin(started, Start(classifier=str(tmp_path / "source.pt")))


@pytest.mark.parametrize("widths", [(12, 12, 16), (8, 20, 40), (30, 30, 40)])
def test_a_widened_classifier_computes_the_same(widths: tuple[int, ...], tmp_path: Path) -> None:
    """Also by more than twice, and with blocks whose shortcut is the identity."""
    blocks = "model.classifier.blocks=2"
    source = saved(tmp_path / "narrow.pt", small("ren-cifar10-edge-clean", blocks))
    config = small("ren-cifar10-edge-clean", blocks, f"model.classifier.widths={list(widths)}")
    wide = build(config.model, seed=7).eval()
    begin(wide, Start(widen=str(tmp_path / "narrow.pt"), widen_noise=0.0))
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = source.classifier.all_logits(images), wide.classifier.all_logits(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.05


def test_the_noise_of_widening_is_small_and_tells_copies_apart(tmp_path: Path) -> None:
    source = saved(tmp_path / "narrow.pt", small("ren-cifar10-edge-clean"))
    config = small("ren-cifar10-edge-clean", "model.classifier.widths=[16,24,32]")
    start = Start(widen=str(tmp_path / "narrow.pt"))
    wide, again = (build(config.model, seed=7).eval() for _ in range(2))
    begin(wide, start, seed=5)
    begin(again, start, seed=5)
    for name, value in wide.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = (wide.classifier.all_logits(images) - source.classifier.all_logits(images)).abs().max()
    assert 0 < change < 0.2 * source.classifier.all_logits(images).std()
    for block in wide.modules():
        if isinstance(block, ResidualBlock):
            kernels = block.conv1.weight.flatten(1)
            assert len(kernels.unique(dim=0)) == len(kernels)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.classifier.widths=[8,8,16]",), "expected at most 8 channels, got 12"),
        (("model.classifier.count=1",), "other numbers of blocks"),
        (("model.n_classes=9",), "classes than the config"),
        (("model.classifier={kind='resnet18', count=2}",), "only classifiers of the kind 'edge'"),
    ],
)
def test_what_can_not_be_widened_is_named(overrides: tuple[str, ...], words: str, tmp_path: Path) -> None:
    saved(tmp_path / "narrow.pt", small("ren-cifar10-edge-clean"))
    tree = configs.to_dict(small("ren-cifar10-edge-clean"))
    if "resnet18" in overrides[0]:
        tree["model"]["classifier"] = {"kind": "resnet18", "count": 2}
        model = configs.from_dict(tree, where="config").model
    else:
        model = small("ren-cifar10-edge-clean", *overrides).model
    with pytest.raises(UsageError, match=words):
        begin(build(model), Start(widen=str(tmp_path / "narrow.pt")))


def test_a_bundles_folder_gives_its_twin(tmp_path: Path) -> None:
    """Weights as in the bundle's file, and its provenance as an ancestor's."""
    folder = default_bundle()
    bundle = Bundle.open(folder)
    model = configs.from_dict(
        {
            "name": "x",
            "data": {"name": "cifar10"},
            "recipe": {"kind": "clean"},
            "model": bundle.manifest.twin.config,
        },
        where="bundle",
    ).model
    defence = build(model, seed=7)
    ancestors = begin(defence, Start(purifier=str(folder), classifier=str(folder)))
    weights = safetensors.torch.load(bundle.read(bundle.manifest.twin.weights))
    for name, value in defence.state_dict().items():
        assert torch.equal(value, weights[name].to(value.dtype)), name
    assert ancestors == {bundle.manifest.name: bundle.manifest.provenance}


def test_a_run_that_started_from_a_bundle_resumes_without_it(digits: Images, tmp_path: Path) -> None:
    """What it started with is in its checkpoint: the source may be gone."""
    saved(tmp_path / "source.pt", small("ren-cifar10-edge-clean"))
    config = run_config(classifier=tmp_path / "source.pt")
    fit(config, digits[:128], digits[128:160], tmp_path / "whole")
    state = checkpoint.load(tmp_path / "whole" / "last.pt")
    (tmp_path / "source.pt").unlink()
    fit(config, digits[:128], digits[128:160], tmp_path / "whole", resume=True)
    assert checkpoint.load(tmp_path / "whole" / "last.pt")["provenance"] == state["provenance"]
    assert set(state["provenance"]["ancestors"]) == {"ren-cifar10-edge-stage-1"}


def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle"):
        begin(build(small("ren-cifar10-edge-clean").model), Start(purifier=str(tmp_path)))
