"""Configs: every mistake names the key, the value and what was expected."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import trainer
from sdk.bundle import Bundle
from sdk.errors import UsageError
from trainer import config as configs
from trainer.data.catalogue import read_classes

ROOT = Path(__file__).parents[2]
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
        ("optimizer.epoch=3", ["optimizer.epoch: no such key", "kind, epochs"]),
        ("epochs=3", ["epochs: no such key", "name, data, model"]),
        ("recipe.probe_images=3", ["recipe.probe_images: no such key", "eps, raw_share, attacked_share"]),
        ("model.purifier.width=3", ["model.purifier.width: no such key", "atoms_per_encoder"]),
        ("optimizer.epochs=0", ["optimizer.epochs: expected int >= 1, got 0"]),
        ("optimizer.epochs='three'", ["optimizer.epochs: expected int, got 'three'"]),
        ("optimizer.precision=fp8", ["optimizer.precision: expected one of", "bf16-mixed", "got 'fp8'"]),
        ("model.purifier.patch=5", ["model.purifier.patch: expected one of 4, 8, got 5"]),
        (
            "data.name=mnist",
            ["data.name: expected one of cifar10, folders, gtsrb, imagenet, svhn, got 'mnist'"],
        ),
        ("model.family=rem", ["model.family: expected one of ren, maep, none, got 'rem'"]),
        ("model.family=3", ["model.family: expected one of ren, maep, none, got 3"]),
        ("recipe.kind=robust", ["recipe.kind: expected one of clean, adversarial, masked, atop", "'robust'"]),
        ("recipe.kind=masked", ["recipe.raw_share: no such key", "masking"]),
        ("recipe.eps=8", ["recipe.eps: expected float < 1.0, got 8"]),
        ("recipe=8", ["recipe: expected a section, got 8"]),
        ("model.mean=[0.1, x]", ["model.mean", "array"]),
        ("model.mean=[0.1, 0.2, 'x']", ["model.mean.2: expected float, got 'x'"]),
        ("recipe.raw_share=0.9", ["attacked_share", "raw_share"]),
        ("model.purifier.atoms_kept=97", ["atoms_kept", "96", "97"]),
        ("loss.mask_ramp=[0.8, 0.5]", ["mask_ramp", "0.8"]),
        ("optimizer.momentum=1", ["optimizer.momentum: expected float < 1.0, got 1"]),
        ("optimizer.momentum=-0.1", ["optimizer.momentum: expected float >= 0.0, got -0.1"]),
        ("model.std=[0.2, 0.2, 0]", ["model.std.2: expected float > 0.0, got 0"]),
        ("seed=-1", ["seed: expected int >= 0, got -1"]),
        ("seed=9223372036854775808", ["seed: expected int <= 9223372036854775807, got 9223372036854775808"]),
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


def test_a_key_that_is_left_out_is_named_with_its_choices() -> None:
    whole = configs.to_dict(configs.load(CLEAN))
    for section, key, words in (
        ("model", "family", "where: model.family: missing; expected one of ren, maep, none"),
        ("recipe", "kind", "where: recipe.kind: missing; expected one of clean, adversarial, masked, atop"),
        (
            "data",
            "name",
            "where: data.name: missing; expected one of cifar10, folders, gtsrb, imagenet, svhn",
        ),
    ):
        rest = {name: value for name, value in whole[section].items() if name != key}
        with pytest.raises(UsageError) as caught:
            configs.from_dict({**whole, section: rest}, where="where")
        assert str(caught.value) == words
    with pytest.raises(UsageError, match=r"^where: name: missing$"):
        configs.from_dict({key: value for key, value in whole.items() if key != "name"}, where="where")
    with pytest.raises(UsageError, match=r"^where: : expected a section, got 3$"):
        configs.from_dict(3, where="where")


def test_what_a_shipped_config_starts_from_is_what_a_shipped_config_makes() -> None:
    shipped = {config.name: config for config in map(configs.load, SHIPPED)}
    for config in shipped.values():
        for part in ("purifier", "classifier", "features"):
            path = getattr(config.start, part)
            if path is None:
                continue
            if path.startswith("samples/bundles/"):
                twin = Bundle.open(ROOT / path).manifest.twin
                assert twin is not None
                made = msgspec.convert(twin.config, configs.Model)
                assert made.classifier == config.model.classifier
            else:
                runs, name, _ = path.split("/")
                assert (runs, path) == ("runs", f"runs/{name}/best.pt")
                assert shipped[name].model.classifier == config.model.classifier
                if config.start.features is None:  # what is for other classes
                    assert shipped[name].data.name == config.data.name


@pytest.mark.parametrize("keys", [("classifier", "features"), ("features", "widen"), ("classifier", "widen")])
def test_a_classifier_starts_from_one_source(keys: tuple[str, ...]) -> None:
    overrides = tuple(f"start.{key}=somewhere.pt" for key in keys)
    with pytest.raises(UsageError, match=rf"start\.{keys[1]}: expected one source of the classifier"):
        configs.load(SHIPPED[0].with_name("ren-cifar10.toml"), overrides)


def test_a_missing_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml"):
        configs.load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(UsageError, match="not TOML"):
        configs.load(broken)


def test_a_config_or_list_of_classes_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="config /dev/zero: it is larger than 64 MiB"):
        configs.load(Path("/dev/zero"))
    with pytest.raises(UsageError, match=r"data\.classes /dev/zero: can't be read: it is larger than 64 MiB"):
        read_classes(Path("/dev/zero"))
