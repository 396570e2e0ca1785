"""Low-rank adapters, and runs that begin with the weights of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sdk.errors import UsageError
from trainer import checkpoint, config, models
from trainer.checkpoint import CheckpointError
from trainer.loop.warm_start import begin
from trainer.models import Defence, adapters


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
    return nn.Sequential(nn.LayerNorm(6), inner, nn.Linear(6, 3))


def randomize(module: nn.Module) -> None:
    """Give adapters values that matter."""
    for name, parameter in module.named_parameters():
        if name in adapters.names(module):
            nn.init.normal_(parameter)


def test_merged_equals_applied(network: nn.Module) -> None:
    adapters.add(network, 2)
    randomize(network)
    x = torch.randn(5, 6)
    applied = network(x)
    adapters.merge(network)
    assert not adapters.present(network)
    assert {type(module) for module in network.modules()} == {nn.Sequential, nn.Linear, nn.LayerNorm, nn.GELU}
    torch.testing.assert_close(network(x), applied, rtol=1e-5, atol=1e-5)


def test_merged_weights_differ_by_the_product_of_rank_two(network: nn.Module) -> None:
    before = network[2].weight.clone()
    adapters.add(network, 2)
    randomize(network)
    down, up = network[2].down.detach().clone(), network[2].up.detach().clone()
    adapters.merge(network)
    torch.testing.assert_close(network[2].weight - before, up @ down)
    assert torch.linalg.matrix_rank(network[2].weight - before) == 2


def test_new_adapters_change_nothing(network: nn.Module) -> None:
    x = torch.randn(5, 6)
    before = network(x)
    adapters.add(network, 3)
    assert torch.equal(network(x), before)


def test_only_adapters_are_trained(network: nn.Module) -> None:
    adapters.add(network, 2)
    adapters.only(network)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == adapters.names(network)
    assert trained == {f"{layer}.{part}" for layer in ("1.0", "1.2", "2") for part in ("down", "up")}


def test_weights_from_before_the_adapters_load_as_they_are(network: nn.Module) -> None:
    before = network.state_dict()
    adapters.add(network, 2)
    missing, unexpected = network.load_state_dict(before, strict=False)
    assert set(missing) == adapters.names(network)
    assert unexpected == []


def test_adapters_are_in_the_decoder_alone_and_small() -> None:
    purifier = maep(adapter_rank=4, width=128, decoder_blocks=1).purifier
    names = adapters.names(purifier)
    assert names
    assert all(name.startswith("decoder.") for name in names)
    sizes = {name: parameter.numel() for name, parameter in purifier.named_parameters()}
    assert sum(sizes[name] for name in names) == 4 * (128 + 384 + 128 + 128 + 128 + 512 + 512 + 128)


def test_a_stage_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    """Plain weights into a model with adapters, adapted ones into one without: both purify as before."""
    first = maep(seed=1)
    for parameter in first.purifier.parameters():
        nn.init.normal_(parameter, std=0.05)
    stored = save(first, tmp_path / "first.pt", {"kind": "masked"})
    second = maep(seed=2, adapter_rank=3)
    begin(second, config.Start(purifier=str(stored)))
    images, draw = torch.rand(2, 3, 16, 16), first.draw(2, torch.Generator().manual_seed(0))
    expected = checkpoint.load_defence(stored).defence.purify(images, draw)
    torch.testing.assert_close(second.purify(images, draw), expected)

    randomize(second.purifier)
    recipe = {"kind": "masked", "adapters_only": True}
    stored = save(second, tmp_path / "second.pt", recipe, adapter_rank=3)
    third = maep(seed=3)
    begin(third, config.Start(purifier=str(stored)))
    expected = checkpoint.load_defence(stored).defence.purify(images, draw)
    torch.testing.assert_close(third.purify(images, draw), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(third.classifier.members[0][-1].weight, second.classifier.members[0][-1].weight)


def test_a_run_takes_the_classifier_of_another_family(tmp_path: Path) -> None:
    plain = models.build(config.PlainModel(**shape(), n_classes=4), seed=5)
    whole = config.Config(
        name="plain",
        data=config.Data(name="cifar10"),
        model=config.PlainModel(**shape(), n_classes=4),
        recipe=config.AdversarialRecipe(),
    )
    write(plain, tmp_path / "plain.pt", whole)
    defence = maep(seed=6)
    begin(defence, config.Start(classifier=str(tmp_path / "plain.pt")))
    stored = checkpoint.load_defence(tmp_path / "plain.pt").defence.classifier.state_dict()
    for name, value in defence.classifier.state_dict().items():
        assert torch.equal(value, stored[name])


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    stored = save(maep(), tmp_path / "small.pt", {"kind": "masked"})
    with pytest.raises(
        UsageError, match=r"start.purifier .*small.pt: it doesn't fit .*: expected \(16,\), got \(8,\)"
    ):
        begin(maep(width=16), config.Start(purifier=str(stored)))
    with pytest.raises(UsageError, match=r"decoder\.1\.attention\.out\.bias: expected nothing, got \(8,\)"):
        begin(maep(decoder_blocks=1), config.Start(purifier=str(stored)))
    with pytest.raises(CheckpointError, match="no such file"):
        begin(maep(), config.Start(classifier=str(tmp_path / "absent.pt")))


def shape() -> dict[str, object]:
    return {"image_size": 16, "classifier": config.Classifier(count=1, widths=(8, 8, 8), blocks=1)}


def maep_model(
    *, adapter_rank: int = 0, width: int = 8, heads: int = 2, decoder_blocks: int = 2
) -> config.MaepModel:
    purifier = config.MaepPurifier(
        width=width, heads=heads, encoder_blocks=1, decoder_blocks=decoder_blocks, adapter_rank=adapter_rank
    )
    return config.MaepModel(**shape(), n_classes=4, purifier=purifier)


def maep(*, seed: int = 0, **purifier: int) -> Defence:
    return models.build(maep_model(**purifier), seed=seed)


def save(defence: Defence, path: Path, recipe: dict[str, object], *, adapter_rank: int = 0) -> Path:
    tree = {"name": "tiny", "data": {"name": "cifar10"}, "recipe": recipe}
    tree["model"] = config.to_dict(maep_model(adapter_rank=adapter_rank))
    return write(defence, path, config.from_dict(tree, where="config"))


def write(defence: Defence, path: Path, whole: config.Config) -> Path:
    state = {"config": config.to_dict(whole), "averaged": defence.state_dict(), "labels": list("abcd")}
    checkpoint.save(path, {**state, "provenance": {}})
    return path
