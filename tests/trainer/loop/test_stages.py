"""MAEP's training: masked purification, adapters, adversarial training; and the configs of these stages."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import trainer
from sdk.errors import UsageError
from trainer import config, models, objectives
from trainer.data import Images, keyed_generator, split_validation
from trainer.data import attack_bank as banks
from trainer.loop.fabric import open_fabric
from trainer.loop.run import Run
from trainer.loop.validation import pgd_accuracy
from trainer.models import Defence, adapters

CONFIGS = Path(trainer.__file__).parent / "configs"
TINY = {
    "family": "maep",
    "image_size": 16,
    "purifier": {"patch": 4, "width": 32, "encoder_blocks": 2, "decoder_blocks": 1, "heads": 2},
    "classifier": {"count": 1, "widths": [8, 16, 16], "blocks": 1},
}


@pytest.fixture(scope="module")
def classifier(digits: Images) -> dict[str, torch.Tensor]:
    """The weights of a classifier that reads the digits."""
    defence = tiny_defence()
    optimizer = torch.optim.Adam(defence.classifier.parameters(), lr=3e-3)
    draw_of = keyed_generator("classifier")
    for batch in torch.randperm(len(digits), generator=draw_of)[:1700].repeat(3).split(100):
        images = digits[batch].pixels.float() / 255
        loss = torch.nn.functional.cross_entropy(
            defence.classify(images, defence.draw(len(batch), draw_of)), digits[batch].targets
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return defence.classifier.state_dict()


def test_stages_in_turn_lower_the_loss(digits: Images, classifier: dict[str, torch.Tensor]) -> None:
    """Masked, then adapters, then AToP: each starts from the weights of the one before."""
    defence = tiny_defence()
    defence.classifier.load_state_dict(classifier)
    training, attacked = banks.split(digits, banks.make(defence, digits, eps=0.04, steps=5), 197)
    undefended = accuracy(defence, attacked)
    first, last = train(defence, training, {"kind": "masked", "bank": "pairs", "clean_share": 0.0}, steps=160)
    assert last < 0.8 * first
    assert undefended < 0.4
    assert accuracy(defence, attacked) > undefended + 0.08

    second = tiny_defence(adapter_rank=4)
    second.load_state_dict(defence.state_dict(), strict=False)
    before = {name: value.clone() for name, value in second.state_dict().items()}
    recipe = {"kind": "masked", "bank": "pairs", "masking": [0.0], "adapters_only": True}
    first, last = train(second, training, recipe, steps=60)
    assert last < 0.97 * first
    changed = {name for name, value in second.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"purifier.{name}" for name in adapters.names(second.purifier)}

    adapters.merge(second.purifier)
    clean = Images(training.pixels[:, :3], training.targets, training.labels)
    third = {"kind": "atop", "eps": 0.04}
    frozen = {name: value.clone() for name, value in second.classifier.state_dict().items()}
    held_out = split_validation(digits, 197)[1]
    before = pgd_accuracy(second, held_out, seed=0, eps=0.04)
    first, last = train(second, clean, third, steps=80)
    assert last < 0.95 * first
    assert pgd_accuracy(second, held_out, seed=0, eps=0.04) > before + 0.1
    assert all(torch.equal(value, frozen[name]) for name, value in second.classifier.state_dict().items())


def test_an_attack_made_in_the_step_does_as_a_bank(
    digits: Images, classifier: dict[str, torch.Tensor]
) -> None:
    defence = tiny_defence()
    defence.classifier.load_state_dict(classifier)
    first, last = train(defence, digits, {"kind": "masked", "eps": 0.04, "attack_steps": 2}, steps=60)
    assert last < 0.85 * first


def test_without_a_bank_the_attack_is_made_for_validation_too(
    digits: Images, classifier: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """As a bank's attacked images would be judged; clean ones would favour a purifier that does nothing."""
    recipe = {"kind": "masked", "eps": 0.04, "attack_steps": 5}
    found = {}
    for name, bank in (("made", {}), ("bank", {"bank": "b"})):
        state = Run(tiny_config({**recipe, **bank}), open_fabric("32-true"), digits, tmp_path)
        state.averaged.module.classifier.load_state_dict(classifier)
        found[name] = state.validate(digits[1600:])
    # an untrained purifier gives images back: what it is shown decides
    assert found["bank"]["purified"] == found["bank"]["raw"] > 0.6
    assert found["made"]["purified"] == found["made"]["raw"] < 0.4
    attacked = banks.make(state.averaged.module, digits[1600:], eps=0.04, steps=5).attack(digits[1600:])
    by_bank = state.validate(attacked)
    assert found["made"]["raw"] == pytest.approx(by_bank["raw"], abs=0.08)


def test_a_masked_step_gives_masked_and_kept_patches_their_say(digits: Images) -> None:
    defence = tiny_defence()
    objective = objectives.build(defence, tiny_config({"kind": "masked", "bank": "b", "masking": [0.0, 0.5]}))
    images, generator = digits.pixels[:8].float() / 255, keyed_generator("terms")
    pairs, draw = torch.cat([images, 1 - images], dim=1), defence.draw(8, generator)
    noise = torch.rand(pairs.shape, generator=generator)
    _, whole = objective(pairs, digits.targets[:8], draw, noise, step=0, share=0.0)
    _, half = objective(pairs, digits.targets[:8], draw, noise, step=1, share=0.0)
    assert set(whole) == {"loss", "purification"}
    assert set(half) == {"loss", "purification", "reconstruction"}
    # untrained, kept patches come back as they are: the error is the attack's, on the 6 of 8 attacked
    expected = (1 - 2 * images[2:]).abs().sum() / images.numel()
    torch.testing.assert_close(whole["purification"], expected)


def test_a_batch_that_rounds_to_all_clean_still_attacks_an_image(digits: Images) -> None:
    defence = tiny_defence()
    objective = objectives.build(defence, tiny_config({"kind": "atop", "clean_share": 0.99}))
    images, generator = digits.pixels[:8].float() / 255, keyed_generator("terms")
    draw, noise = defence.draw(8, generator), torch.rand(images.shape, generator=generator)
    _, terms = objective(images, digits.targets[:8], draw, noise, step=0, share=0.0)
    assert all(term.isfinite() for term in terms.values())


def test_recipes_and_families_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"recipe.kind: expected masked or atop for 'maep', got 'clean'"):
        tiny_config({"kind": "clean"})
    with pytest.raises(UsageError, match=r"adapter_rank: expected > 0, got 0"):
        tiny_config({"kind": "masked", "adapters_only": True})
    with pytest.raises(UsageError, match=r"adapter_rank: expected 0, got 2"):
        tiny_config({"kind": "atop"}, adapter_rank=2)
    with pytest.raises(UsageError, match="masking: expected at least one share"):
        tiny_config({"kind": "masked", "masking": []})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("maep-*.toml")), ids=lambda path: path.stem)
def test_a_shipped_config_is_what_its_name_says(path: Path) -> None:
    """It loads, its model can be built, and each stage begins with the one before, of the same shape."""
    loaded = config.load(path)
    assert loaded.name == path.stem
    model = loaded.model
    if model.classifier.kind == "module":  # the user's own, which isn't here
        model = msgspec.structs.replace(model, classifier=config.Classifier(kind="resnet18"))
    with torch.device("meta"):
        models.build(model)
    if loaded.start.purifier is not None:
        before = config.load(CONFIGS / f"{loaded.start.purifier.split('/')[1]}.toml")
        assert loaded.start.purifier == f"runs/{before.name}/best.pt"
        assert loaded.start.classifier == before.start.classifier
        plain = [
            msgspec.structs.replace(m, purifier=msgspec.structs.replace(m.purifier, adapter_rank=0))
            for m in (model, before.model)
        ]
        assert plain[0] == plain[1]


def tiny_defence(**purifier: int) -> Defence:
    model = {**TINY, "purifier": {**TINY["purifier"], **purifier}}
    return models.build(msgspec.convert(model, config.Model), seed=1)


def tiny_config(recipe: dict[str, object], **purifier: int) -> config.Config:
    tree = {"name": "tiny", "data": {"name": "cifar10"}, "recipe": recipe, "loss": {"reconstruction": 1.0}}
    model = {**TINY, "purifier": {**TINY["purifier"], **purifier}}
    return config.from_dict({**tree, "model": model}, where="config")


def train(defence: Defence, images: Images, recipe: dict[str, object], *, steps: int) -> tuple[float, float]:
    """Mean loss of the first and of the last eighth of ``steps``."""
    rank = 4 if adapters.present(defence.purifier) else 0
    objective = objectives.build(defence, tiny_config(recipe, adapter_rank=rank))
    trained = [parameter for parameter in defence.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=4e-3)
    losses = []
    for step in range(steps):
        generator = keyed_generator("train", step)
        batch = images[torch.randint(len(images), (64,), generator=generator)]
        pixels = batch.pixels.float() / 255
        defence.train()
        draw, noise = defence.draw(64, generator), torch.rand(pixels.shape, generator=generator)
        loss, _ = objective(pixels, batch.targets, draw, noise, step=step, share=step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[: steps // 8])), float(np.mean(losses[-steps // 8 :]))


@torch.no_grad()
def accuracy(defence: Defence, images: Images) -> float:
    defence.eval()
    draw = defence.draw(len(images), keyed_generator("accuracy"))
    return float((defence(images.pixels.float() / 255, draw).argmax(1) == images.targets).float().mean())
