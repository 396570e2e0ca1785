"""How long the stages are: as long as the hours allow, by the rate that this machine has today."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from export.protect import stages
from export.protect.stages import Setting
from sdk.errors import UsageError
from trainer.config import Config
from trainer.data import DataSet, Images
from trainer.loop.fabric import open_fabric
from trainer.loop.run import Run

BLIND_SHARE = 0.25  # of the time for training
BANK_SHARE = 0.4  # of the blind stage, that an attack bank may take
BANK_STEPS = 10  # of PGD
VALIDATION_SHARE = 0.1  # of a stage, that validation may take
MAX_EPOCHS = 20
MIN_STEPS = 2  # of a stage
MEASURED_STEPS = 4  # even: steps of MAEP take turns
MEASURED_SHARE = 0.01  # of the hours, that a rate is measured for
SAVE_S = 60.0
EXPORT_S = 60.0
JUDGING = 2.0  # steps of training that take as long as judging the precisions on a batch; measured
# gradients through the defence that the evaluation takes, by picture and by draw; an estimate
GRADIENTS = 150


class Stage(msgspec.Struct, frozen=True):
    """A stage's length.

    Attributes:
        epochs, epoch_steps: see ``optimizer`` in a config.
        save_every: steps between two saves.
        seconds: that it is expected to take.
    """

    epochs: int
    epoch_steps: int
    save_every: int
    seconds: float


class Plan(msgspec.Struct, frozen=True):
    """What is going to be done, decided once.

    Attributes:
        family: of the purifier.
        bank: whether the blind stage's attacks come from a bank.
        bank_s: expected seconds of the bank, and ``evaluation_s`` of the evaluation.
        blind, adversarial: the stages.
    """

    family: str
    bank: bool
    bank_s: float
    blind: Stage
    adversarial: Stage
    evaluation_s: float

    @property
    def seconds(self) -> float:
        return self.bank_s + self.blind.seconds + self.adversarial.seconds + self.evaluation_s


def make(setting: Setting, training: DataSet, *, hours: float, images: int, judged: int = 0) -> Plan:
    """Measure the rates and size the stages.

    Args:
        training: without the validation pictures.
        hours: for everything.
        images: that the evaluation attacks.
        judged: test pictures that the precisions are judged on.

    Raises:
        UsageError: the hours don't allow a few steps of each stage.
    """
    begun, total = time.perf_counter(), 3600 * hours
    batch = setting.batch_size
    few = training[slice(0, 2 * batch)]
    long = {"epochs": 99, "epoch_steps": 0, "save_every": 0}
    attacked = _rate(stages.adversarial(setting, purifier=Path(), **long), few, MEASURED_SHARE * total)
    plain = _rate(stages.blind(setting, bank=None, **long), few, MEASURED_SHARE * total)
    draws = 4 if setting.family == "ren" else 1
    evaluation = EXPORT_S * min(1.0, hours) + images * GRADIENTS * draws * attacked / (2 * batch)
    evaluation += JUDGING * judged / batch * attacked
    left = total - (time.perf_counter() - begun) - evaluation
    blind_s = BLIND_SHARE * left
    bank_s = _bank_seconds(setting, few, len(training)) if setting.family == "maep" else 0.0
    has_bank = 0 < bank_s <= BANK_SHARE * blind_s and _may_have_bank(training)
    if has_bank:
        banked = replace(few, pixels=torch.cat([few.pixels, few.pixels], dim=1))
        config = stages.blind(setting, bank=Path("bank"), **long)
        plain = _rate(config, banked, MEASURED_SHARE * total)
        blind_s -= bank_s
    whole = max(1, len(training) // batch)
    first = _stage(blind_s, plain, whole, validation_s=setting.validation / batch * plain)
    probe = 22 * setting.probed / (2 * batch) * attacked  # PGD-10 on two models; a step has two passes
    second = _stage((1 - BLIND_SHARE) * left, attacked, whole, validation_s=probe)
    if first is None or second is None:
        blind_least = (MIN_STEPS * plain + setting.validation / batch * plain) / BLIND_SHARE
        both_least = max(blind_least, (MIN_STEPS * attacked + probe) / (1 - BLIND_SHARE))
        least = both_least + total - left
        raise UsageError(
            f"--hours {hours:g}: too little: a step takes {attacked:.2g} s here, and measuring the bundle "
            f"about {evaluation:.0f} s; expected at least {_up(least / 3600):g}",
            hint="give more, or fewer --images to measure on",
        )
    return Plan(setting.family, has_bank, bank_s if has_bank else 0.0, first, second, evaluation)


def _up(hours: float) -> float:
    return float(f"{1.2 * hours:.1g}") if hours > 0 else hours


def _stage(seconds: float, step_s: float, whole: int, *, validation_s: float) -> Stage | None:
    """A stage of ``seconds``, whose steps take ``step_s`` and whose validations ``validation_s`` each."""
    room = int(VALIDATION_SHARE * seconds / validation_s)
    epochs = max(1, min(MAX_EPOCHS, room))
    steps = int((seconds - epochs * validation_s) / step_s)
    if steps < MIN_STEPS:
        return None
    epochs = min(epochs, steps)
    epoch_steps = steps // epochs
    if epoch_steps >= whole:  # several passes over the pictures
        epochs, epoch_steps = max(1, int(seconds / (whole * step_s + validation_s))), 0
    expected = epochs * ((epoch_steps or whole) * step_s + validation_s)
    return Stage(epochs, epoch_steps, max(1, int(SAVE_S / step_s)), expected)


def _rate(config: Config, training: Images, seconds: float) -> float:
    """Seconds a step of ``config`` takes here."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, open_fabric(config.optimizer.precision), training, Path(folder))
        taken: list[float] = []
        while len(taken) < MEASURED_STEPS + 1 or (sum(taken[1:]) < seconds and len(taken) < 100):
            for batch in run.rest_of_epoch():
                begun = time.perf_counter()
                run.train_step(*batch)
                taken.append(time.perf_counter() - begun)
    return sum(taken[1:]) / len(taken[1:])


def _bank_seconds(setting: Setting, few: Images, count: int) -> float:
    """What a bank of ``count`` pictures takes here."""
    from trainer.data import attack_bank
    from trainer.models import build

    config = stages.blind(setting, epochs=1, epoch_steps=0, bank=None, save_every=0)
    defence = build(config.model, seed=setting.seed)
    begun = time.perf_counter()
    attack_bank.make(defence, few, eps=setting.eps, steps=2)
    return (time.perf_counter() - begun) * BANK_STEPS / 2 * count / len(few)


def _may_have_bank(training: DataSet) -> bool:
    from trainer.data import ImageFolders

    return isinstance(training, Images) or (
        isinstance(training, ImageFolders) and training.decoded is not None
    )
