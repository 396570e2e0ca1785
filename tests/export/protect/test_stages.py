"""The stages are configs that ``edge-train fit`` takes, sized to the hours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.protect import plan, stages
from export.protect.plan import BLIND_SHARE
from export.protect.stages import Setting
from sdk.errors import UsageError
from tests.export.protect.conftest import LABELS, SIDE, textures
from trainer import config as configs
from trainer.config import Config
from trainer.data import Images

LENGTH = {"epochs": 3, "epoch_steps": 7, "save_every": 5}


def setting(family: str = "ren", adapt: str = "none", **changes: object) -> Setting:
    values = {
        "name": 'a "net" \\ of\tmine',
        "classifier": Path("net.onnx"),
        "classes": Path("classes.txt"),
        "n_classes": len(LABELS),
        "image_size": (SIDE, SIDE),
        "n_training": 120,
        "family": family,
        "adapt": adapt,
        "eps": 8 / 255,
        "split": 0.8,
        "seed": 3,
    }
    return Setting(**{**values, **changes})  # type: ignore[arg-type]


def both(one: Setting) -> list[Config]:
    first = stages.blind(one, bank=Path("bank.npz"), **LENGTH)
    return [first, stages.adversarial(one, purifier=Path("best.pt"), **LENGTH)]


@pytest.mark.parametrize("family", ["ren", "maep"])
@pytest.mark.parametrize("adapt", ["none", "classifier"])
def test_a_stage_is_a_file_that_the_trainer_reads(family: str, adapt: str, tmp_path: Path) -> None:
    for config in both(setting(family, adapt)):
        path = tmp_path / "stage.toml"
        path.write_text("# a comment\n" + stages.to_toml(config), encoding="utf-8")
        assert configs.load(path) == config


@pytest.mark.parametrize("family", ["ren", "maep"])
def test_only_the_second_stage_trains_the_classifier_and_only_if_asked(family: str) -> None:
    assert [config.freezes_classifier for config in both(setting(family, "none"))] == [True, True]
    assert [config.freezes_classifier for config in both(setting(family, "classifier"))] == [True, False]


@pytest.mark.parametrize(
    ("size", "patch", "tile"),
    [
        ((16, 16), 4, None),
        ((32, 32), 4, None),
        ((64, 64), 8, None),
        ((224, 224), 16, None),
        ((299, 299), 23, None),
        ((227, 227), 4, 32),
        ((8, 8), 4, 32),
        ((128, 64), 4, 32),
    ],
)
def test_patches_or_tiles_suit_the_image(size: tuple[int, int], patch: int, tile: int | None) -> None:
    for config in both(setting("maep", image_size=size)):
        purifier = config.model.purifier  # type: ignore[union-attr]
        assert (purifier.patch, purifier.tile) == (patch, tile)


def test_the_family_suits_what_is_trained() -> None:
    assert (stages.default_family("none"), stages.default_family("classifier")) == ("maep", "ren")


def images() -> Images:
    pixels, targets = textures(40, seed=2)
    return Images(torch.from_numpy(pixels), targets, LABELS)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 1 s, with an attack 4 s; the bank takes half an hour."""

    def rate(config: Config, training: Images, seconds: float) -> float:
        return 4.0 if config.recipe.__struct_config__.tag == "atop" else 1.0

    monkeypatch.setattr(plan, "_rate", rate)
    monkeypatch.setattr(plan, "_bank_seconds", lambda *arguments: 1800.0)


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize("hours", [1.0, 2.5, 10.0])
def test_the_stages_fill_the_hours(hours: float) -> None:
    one = setting("maep", n_training=40_000)
    made = plan.make(one, images(), hours=hours, images=128)
    assert 0.75 * 3600 * hours < made.seconds <= 3600 * hours
    assert made.bank == (hours == 10.0), "such a bank pays for a long stage alone"
    assert made.blind.seconds + made.bank_s == pytest.approx(
        BLIND_SHARE / (1 - BLIND_SHARE) * made.adversarial.seconds, rel=0.5
    )


@pytest.mark.usefixtures("rates")
def test_too_few_hours_say_how_many_it_takes() -> None:
    with pytest.raises(UsageError, match=r"--hours 0\.002: too little: a step takes 4 s .* at least 0\.\d+"):
        plan.make(setting("maep"), images(), hours=0.002, images=8)


def test_no_pass_over_the_pictures_is_planned_in_part_where_there_is_time_for_several() -> None:
    short = plan._stage(100.0, 1.0, 1000, validation_s=1.0)
    assert short is not None
    assert (short.epochs, short.epoch_steps) == (10, 9)
    long = plan._stage(100.0, 1.0, 5, validation_s=1.0)
    assert long is not None
    assert (long.epochs, long.epoch_steps) == (16, 0)
    assert long.seconds <= 100
    assert plan._stage(1.0, 1.0, 5, validation_s=0.5) is None
