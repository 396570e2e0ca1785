"""Adversarial weight perturbation: what moves, how far, uphill, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.trainer.conftest import small
from trainer import objectives
from trainer.config import Config
from trainer.data import Images
from trainer.loop.fabric import open_fabric
from trainer.loop.run import Run
from trainer.models import Defence, build
from trainer.models.classifier import ResidualBlock


def begun(config: Config) -> Defence:
    """Untrained, but for the blocks' last norms, at whose initial zero no gradient passes."""
    defence = build(config.model, seed=0)
    for block in defence.modules():
        if isinstance(block, ResidualBlock):
            torch.nn.init.ones_(block.norm2.weight)
    return defence


@pytest.mark.parametrize("tail", [0.0, 1.0], ids=["N-FGSM", "PGD"])
def test_kernels_move_uphill_by_a_share_of_their_norm(tail: float, digits: Images) -> None:
    config = small("plain-cifar10-edge-at", "recipe.weight_perturbation=0.01", f"recipe.pgd_tail={tail}")
    defence = begun(config)
    before = {name: value.detach().clone() for name, value in defence.named_parameters()}
    plain = small("plain-cifar10-edge-at", f"recipe.pgd_tail={tail}")
    images, generator = digits.pixels[:64].float() / 255, torch.Generator().manual_seed(0)
    labels = digits.targets[:64]
    draw, noise = defence.draw(64, generator), torch.rand(images.shape, generator=generator)
    objective = objectives.build(defence, config)
    loss, _ = objective(images, labels, draw, noise, step=1, share=0.5)
    for name, value in defence.named_parameters():
        moved = float((value.detach() - before[name]).norm() / before[name].norm().clamp(min=1e-9))
        assert moved == pytest.approx(0.01 if value.dim() > 1 else 0.0, rel=1e-3), name
    unmoved = begun(config)
    reference, _ = objectives.build(unmoved, plain)(images, labels, draw, noise, step=1, share=0.5)
    assert loss > reference  # the same attack, on weights that were moved against it
    loss.backward()
    objective.after_backward()
    assert all(torch.equal(value, before[name]) for name, value in defence.named_parameters())
    assert any(bool(p.grad.abs().sum()) for p in defence.parameters() if p.grad is not None)


def test_a_member_that_no_image_drew_stays(digits: Images) -> None:
    config = small("plain-cifar10-edge-at", "recipe.weight_perturbation=0.01", "loss.diversity=0")
    defence = begun(config)
    before = {name: value.clone() for name, value in defence.classifier.members.named_parameters()}
    draw = defence.draw(8, torch.Generator().manual_seed(0))
    draw.classifier.fill_(0)
    images = digits.pixels[:8].float() / 255
    objectives.build(defence, config)(
        images, digits.targets[:8], draw, torch.rand(images.shape), step=1, share=0.5
    )
    still = {
        name.split(".")[0]
        for name, value in defence.classifier.members.named_parameters()
        if torch.equal(value, before[name])
        if value.dim() > 1
    }
    assert still == {"1"}


def test_a_step_under_autocast_uses_the_perturbed_weights(digits: Images, tmp_path: Path) -> None:
    """Autocast keeps weights in half precision between two uses, which a change in place leaves stale."""
    losses = []
    for size in (0.0, 0.2):
        overrides = ("optimizer.precision=bf16-mixed", f"recipe.weight_perturbation={size}")
        run = Run(
            small("plain-cifar10-edge-at", *overrides), open_fabric("bf16-mixed"), digits[:640], tmp_path
        )
        losses.append(run.train_step(*next(run.rest_of_epoch()))["loss"])
    assert losses[1] > losses[0] + 0.05


def test_the_average_is_of_unperturbed_weights(digits: Images, tmp_path: Path) -> None:
    config = small("plain-cifar10-edge-at", "recipe.weight_perturbation=0.3", "optimizer.learning_rate=1e-9")
    run = Run(config, open_fabric("32-true"), digits[:640], tmp_path)
    before = {name: value.clone() for name, value in run.defence.named_parameters()}
    for batch in list(run.rest_of_epoch())[:2]:
        run.train_step(*batch)
    for weights in (run.defence, run.averaged.module):
        for name, value in weights.named_parameters():
            torch.testing.assert_close(value, before[name], rtol=0, atol=1e-5)


def test_code_stability_of_weight_zero_costs_no_encoding(
    digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for weight in (0.0, 0.05):
        config = small("ren-cifar10-edge-at", f"loss.code_stability={weight}", "loss.diversity=0")
        defence = build(config.model, seed=0)
        calls: list[int] = []
        encode = defence.purifier.encode_and_decode

        def counted(*arguments: Any, calls: list[int] = calls, encode: Any = encode) -> Any:
            calls.append(1)
            return encode(*arguments)

        monkeypatch.setattr(defence.purifier, "encode_and_decode", counted)
        images = digits.pixels[:8].float() / 255
        draw = defence.draw(8, torch.Generator().manual_seed(0))
        _, terms = objectives.build(defence, config)(
            images, digits.targets[:8], draw, torch.rand(images.shape), step=1, share=0.5
        )
        assert ("code_stability" in terms) == (weight > 0)
        counts.append(len(calls))
    assert counts[1] == counts[0] + 1


def test_the_purifier_stays_in_half_precision_under_autocast(digits: Images) -> None:
    config = small("ren-cifar10-edge-at")
    defence = build(config.model, seed=0)
    images = digits.pixels[:8].float() / 255
    draw = defence.draw(8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        code, purified = defence.purifier.encode_and_decode(images, draw.purifier, draw.random_input)
        with torch.autocast("cpu", torch.bfloat16):
            halved, seen = defence.purifier.encode_and_decode(images, draw.purifier, draw.random_input)
    assert (code.dtype, halved.dtype) == (torch.float32, torch.bfloat16)
    assert F.l1_loss(seen.float(), purified) < 0.01
