"""The fake-quantized twin is the INT8 engines, differentiable, and takes part in every attack."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import sdk
from export.bundle.add_precisions import Lowering, lower_bundle
from export.bundle.write import write_bundle
from sdk.backends import open_backend
from sdk.backends.interface import Backend
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle
from sdk.errors import BundleError
from tests.trainer.robustness.networks import CLASSIFIER, LABELS, SIDE
from trainer import config as configs
from trainer.checkpoint import Loaded, finish
from trainer.data import Images
from trainer.models import Defence, Draw, build
from trainer.models.twin import read_twin
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.quantized import read_quantized_twin
from trainer.robustness.defences.surrogates import (
    BankMean,
    full_gradient,
    has_shrinkage,
    identity_purifier,
    identity_shrinkage,
)
from trainer.robustness.defences.targets import open_target
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.evaluate import Settings, evaluate

MAEP = configs.MaepModel(
    n_classes=10,
    image_size=SIDE,
    classifier=CLASSIFIER,
    purifier=configs.MaepPurifier(
        width=32, encoder_blocks=1, decoder_blocks=1, heads=2, patches_kept=12, adapter_rank=2
    ),
)
SHIPPED = Path(sdk.__file__).parent / "bundles" / "ren-cifar10-edge"
COUNT = 200  # images that twin and engines are compared on


@dataclass(frozen=True)
class Case:
    """A bundle with INT8 engines, those engines, and both of its twins."""

    folder: Path
    engines: Backend
    quantized: Defence
    fp32: Defence


@pytest.fixture(scope="module")
def ren_int8(ren_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_int8(ren_bundle, tmp_path_factory.mktemp("int8") / "ren")


@pytest.fixture(scope="module")
def maep_int8(ren: Defence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """REN's trained classifiers behind an untrained masked autoencoder that changes images a little."""
    defence = build(MAEP)
    defence.classifier.load_state_dict(ren.classifier.state_dict())
    torch.nn.init.normal_(defence.purifier.head.weight, std=0.01, generator=seeded())
    defence.eval()
    finish(defence)
    config = {"name": "maep-digits", "model": configs.to_dict(MAEP), "recipe": {"kind": "masked"}}
    folder = tmp_path_factory.mktemp("int8") / "maep"
    write_bundle(Loaded(defence, config, LABELS, {"config": config}), folder)
    return with_int8(folder, folder.parent / "maep-int8")


@pytest.fixture(scope="module", params=["ren gpu", "ren cpu", "maep gpu"])
def case(request: pytest.FixtureRequest) -> Case:
    """Each kind of graph as it is written, unoptimized, whatever this processor would run."""
    family, kind = request.param.split()
    folder: Path = request.getfixturevalue(f"{family}_int8")
    bundle = Bundle.open(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdk.backends.onnxruntime.has_exact_int8", lambda: False)
        engines = OnnxRuntimeBackend(bundle, "int8", graphs=kind)
    return Case(folder, engines, read_quantized_twin(bundle, kind), read_twin(bundle).requires_grad_(False))


@pytest.fixture(scope="module")
def images(digits: tuple[Images, Images]) -> Tensor:
    return next(digits[1].batches(COUNT))[0]


def with_int8(bundle: Path, copy: Path) -> Path:
    shutil.copytree(bundle, copy)
    lower_bundle(copy, Lowering(("int8",)), n_images=16)
    return copy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_engines(case: Case, images: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Purified images and logits, image by image."""
    name = case.quantized.random_input.name
    purified, logits = [], []
    for row in range(len(images)):
        random_inputs = {name: draw.random_input[row : row + 1].numpy()}
        image = images[row : row + 1].contiguous().numpy()
        purified.append(case.engines.purify(int(draw.purifier[row]), image, random_inputs).copy())
        logits.append(case.engines.classify(int(draw.classifier[row]), purified[-1]).copy())
    return torch.from_numpy(np.concatenate(purified)), torch.from_numpy(np.concatenate(logits))


def test_decides_as_the_engines_do_and_the_fp32_twin_less_so(case: Case, images: Tensor) -> None:
    """A value at a tie of two codes may fall to the other one, and is then one step off from there on."""
    draw = case.quantized.draw(COUNT, seeded())
    purified, logits = by_engines(case, images, draw)
    found = case.quantized(images, draw)
    assert (case.quantized.purify(images, draw) - purified).abs().mean() < 1e-4
    assert (found.argmax(1) == logits.argmax(1)).float().mean() >= 0.995
    off, off_fp32 = ((given - logits).abs() for given in (found, case.fp32(images, draw)))
    assert off.max() < 0.2 * logits.std()
    assert off.mean() < 0.2 * off_fp32.mean()


def test_each_classifier_is_its_engine(case: Case, images: Tensor) -> None:
    few = images[:20]
    expected = np.array(
        [
            [case.engines.classify(member, image[None].contiguous().numpy())[0].copy() for image in few]
            for member in range(2)
        ]
    )
    found = case.quantized.classifier.all_logits(few)
    assert (found - torch.from_numpy(expected)).abs().mean() < 0.01 * found.std()
    member = torch.arange(20) % 2
    assert torch.allclose(case.quantized.classifier(few, member), found[member, range(20)], atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(case: Case, images: Tensor) -> None:
    """But for ties, which a different order of summing may break."""
    draw = case.quantized.draw(12, seeded(1))
    whole = case.quantized(images[:12], draw)
    alone = torch.cat([case.quantized(images[row : row + 1], draw[row : row + 1]) for row in range(12)])
    assert (whole - alone).abs().mean() < 0.01 * whole.std()


def test_every_way_back_has_a_gradient(case: Case, images: Tensor) -> None:
    ways = [full_gradient, identity_purifier]
    if has_shrinkage(case.quantized):
        ways.append(identity_shrinkage)
    values = []
    for way in ways:
        leaf = images[:6].clone().requires_grad_()
        values.append(BankMean(case.quantized, n_classes=10, samples=3, purify=way)(leaf, seeded()))
        (gradient,) = torch.autograd.grad(values[-1][:, 0].sum(), leaf)
        assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert all(torch.equal(value, values[0]) for value in values)


def test_gradient_is_close_to_the_fp32_twins(case: Case, images: Tensor) -> None:
    """Roundings are straight-through, so the way is the same but for where units switch."""
    gradients = []
    for defence in (case.quantized, case.fp32):
        leaf = images[:40].clone().requires_grad_()
        BankMean(defence, n_classes=10, samples=3)(leaf, seeded())[:, 0].sum().backward()
        gradients.append(leaf.grad.flatten(1))
    assert torch.cosine_similarity(*gradients).median() > 0.9


def test_only_sparse_coding_has_a_shrinkage(ren_int8: Path, maep_int8: Path) -> None:
    assert has_shrinkage(read_quantized_twin(Bundle.open(ren_int8)))
    assert not has_shrinkage(read_quantized_twin(Bundle.open(maep_int8)))


def test_a_bundle_without_int8_says_how_to_get_it(ren_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"edge-export precision .* --precision int8"):
        read_quantized_twin(Bundle.open(ren_bundle))


def test_the_shipped_bundles_twin_is_its_engines() -> None:
    """On the images of its golden outputs, each under 20 draws."""
    bundle = Bundle.open(SHIPPED)
    with np.load(bundle.path(bundle.manifest.golden)) as golden:
        images = torch.from_numpy(golden["images"]).float().div(255).repeat(20, 1, 1, 1)
    backend = open_backend(bundle, "onnxruntime", "int8")
    twin = read_quantized_twin(bundle, backend.graphs)
    shipped = Case(SHIPPED, backend, twin, twin)
    draw = twin.draw(len(images), seeded())
    _, logits = by_engines(shipped, images, draw)
    found = twin(images, draw)
    assert (found.argmax(1) == logits.argmax(1)).float().mean() >= 0.995
    assert (found - logits).abs().mean() < 0.01


def test_int8_targets_are_attacked_through_it(ren_int8: Path) -> None:
    with open_target(ren_int8, precision="int8") as target:
        assert target.attacked == "its fake-quantized twin in torch, int8, straight-through"
        assert not any(weight.requires_grad for weight in target.twin.parameters())
    with open_target(ren_int8, precision="fp32") as target:
        assert target.attacked == "its twin in torch, fp32"


def test_the_ladder_of_int8_engines(ren_int8: Path, digits: tuple[Images, Images], tmp_path: Path) -> None:
    """Every rung is climbed, and the white-box ones leave next to nothing of a clean-trained defence."""
    rungs = ("clean", "blind", "bpda-shrinkage", "bpda-purifier", "pgd", "square")
    budget = Budget("test", rungs, images=20, draws=4, steps=8, samples=3, few=4, queries=10, query_draws=2)
    with open_target(ren_int8, precision="int8") as target:
        settings = Settings(budget, Ball("linf", 0.2), tmp_path)
        report = evaluate(target, digits[1][:20], settings).report
    left = {rung.name: rung.counts.expected.share for rung in report.rungs}
    assert tuple(left) == rungs
    assert "int8 engines" in report.judged_by
    assert left["clean"] >= 0.9
    assert left["pgd"] <= 0.1
