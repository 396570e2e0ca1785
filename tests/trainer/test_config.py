"""Configs: every mistake names the key, the value and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

import trainer
from sdk.errors import UsageError
from trainer import config as configs

SHIPPED = sorted((Path(trainer.__file__).parent / "configs").glob("*.toml"))
CLEAN = Path(trainer.__file__).parent / "configs" / "ren-cifar10-edge-clean.toml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_survives_a_round_trip(path: Path) -> None:
    config = configs.load(path)
    assert configs.from_dict(configs.to_dict(config), where="round trip") == config


def test_an_override_changes_one_key() -> None:
    config = configs.load(CLEAN, ("optimizer.epochs=3", "name=mine", "loss.diversity = 0"))
    assert (config.optimizer.epochs, config.name, config.loss.diversity) == (3, "mine", 0)
    assert config.optimizer.batch_size == configs.load(CLEAN).optimizer.batch_size


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.epoch=3", ["epoch", "optimizer"]),
        ("optimizer.epochs=0", ["optimizer.epochs", ">= 1"]),
        ("optimizer.epochs='three'", ["optimizer.epochs", "int"]),
        ("optimizer.precision=fp8", ["fp8", "optimizer.precision"]),
        ("recipe.kind=robust", ["robust", "recipe"]),
        ("recipe.eps=8", ["recipe.eps", "< 1"]),
        ("recipe.raw_share=0.9", ["attacked_share", "raw_share"]),
        ("model.purifier.atoms_kept=97", ["atoms_kept", "96", "97"]),
        ("loss.mask_ramp=[0.8, 0.5]", ["mask_ramp", "0.8"]),
        ("model.classifier.widths=[64]", ["widths", "[64]"]),
        ("epochs", ["section.key=value"]),
        ("name.first=x", ["'name' is a value"]),
    ],
)
def test_a_mistake_is_named(override: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        configs.load(CLEAN, (override,))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml"):
        configs.load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(UsageError, match="not TOML"):
        configs.load(broken)
