"""All parts in order; each is done once, however often the command is stopped and given again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from export.bundle.add_precisions import Lowering, lower_bundle
from export.bundle.staging import staged
from export.bundle.write import write_bundle
from export.inputs.calibration import N_ACCURACY
from export.protect import accuracy, measurement, outcome, plan, stages
from export.protect.outcome import Outcome
from export.protect.plan import Plan, Stage
from export.protect.request import Request
from export.protect.stages import ADVERSARIAL, BLIND, Setting
from export.protect.workspace import Workspace
from sdk.bundle import MANIFEST, Precision
from sdk.errors import GateError, UsageError
from sdk.files import write_atomically
from trainer.checkpoint import load_defence
from trainer.config import Config
from trainer.data import DataSet, attack_bank, open_dataset, split_validation
from trainer.loop.fit import Report as OnStep
from trainer.loop.fit import fit
from trainer.models import build

BANK, EXPORT, PRECISIONS, MEASURE = "bank", "export", "precisions", "measure"
LOWER: tuple[Precision, ...] = ("fp16", "int8")
FIGURES = "outcome.json"

Say = Callable[[str], None]
OnProgress = Callable[[str, int, int], None]  #: (what, done, of all)


@dataclass(frozen=True)
class Voice:
    """Where the run tells how far it is.

    Attributes:
        say: a line that stays.
        on_step: of a stage of training.
        bars: opens what shows the progress of other parts.
    """

    say: Say
    on_step: OnStep
    bars: Callable[[], AbstractContextManager[OnProgress]]


class Run:
    """One command's work.

    Raises:
        UsageError: the work folder or the bundle's place holds something else, or an option is impossible.
    """

    def __init__(self, request: Request, voice: Voice) -> None:
        self.request, self.voice = request, voice
        self.folder = request.work / f"adapt-{request.adapt}"
        self.bundle = self.folder / "bundle"
        self.work = Workspace.open(self.folder, request.options)
        _check_out(request.out, mine=self.work.is_finished(MEASURE))
        self.training = _open(request, "train")
        self.test = _open(request, "test")

    def outcomes(self) -> list[Outcome]:
        """Do all that is not done yet; this run's outcome, then that of the other ``--adapt``, if it was run.

        Raises:
            GateError: the classifier doesn't know the pictures, or an engine is off.
            EdgePurifyError: whatever else is wrong with the files.
        """
        setting = self.prepare()
        found = self.plan(setting)
        self.train(setting, found)
        self.export()
        own = self.measure(found)
        if not self.request.out.exists():
            with staged(self.request.out.resolve(), False) as new:
                shutil.copytree(self.bundle, new, dirs_exist_ok=True)
        return [own, *self._others(own)]

    def prepare(self) -> Setting:
        """Check that the classifier knows the pictures, and write it as an engine takes it."""
        request, classifier = self.request, self.request.classifier
        if not self.work.is_finished("accuracy"):
            few = self.test[slice(0, accuracy.N_PICTURES)]
            raw = accuracy.check(classifier, few)
            self.voice.say(
                f"the classifier is right on {raw.share:.1%} of {raw.pictures} clean test pictures"
            )
            if raw.better:
                self.voice.say(f"note: {raw.better}")
            write_atomically(self._file("classifier.onnx"), classifier.engine_bytes("classifier-00"))
            write_atomically(self._file("classes.txt"), "\n".join(classifier.labels) + "\n")
            self.work.finish("accuracy")
        return Setting(
            name=request.name,
            classifier=self._file("classifier.onnx").resolve(),
            classes=self._file("classes.txt").resolve(),
            n_classes=len(classifier.labels),
            image_size=(classifier.height, classifier.width),
            n_training=len(self.training),
            family=request.family or stages.default_family(request.adapt),
            adapt=request.adapt,
            eps=request.eps,
            split=request.split,
            seed=request.seed,
        )

    def plan(self, setting: Setting) -> Plan:
        """The lengths of the stages, decided when the work began; their configs are written."""
        found = self.work.state.plan
        if found is None:
            self.voice.say("measuring how fast a step is here")
            training, _ = split_validation(self.training, setting.validation)
            found = plan.make(
                setting,
                training,
                hours=self.request.hours,
                images=min(self.request.images, len(self.test)),
                judged=min(N_ACCURACY, len(self.test)),
            )
            self.work.plan(found)
        for stage, config in self._configs(setting, found).items():
            write_atomically(self._file(f"{stage}.toml"), _HEAD.format(stage=stage) + stages.to_toml(config))
        return found

    def train(self, setting: Setting, found: Plan) -> None:
        """The bank, and both stages."""
        left = found.seconds
        if found.bank and not self.work.is_finished(BANK):
            self.voice.say(f"attacking {len(self.training)} pictures once, {_time(found.bank_s, left)}")
            self._make_bank(setting)
            self.work.finish(BANK)
        left -= found.bank_s
        parts = {BLIND: found.blind, ADVERSARIAL: found.adversarial}
        for stage, config in self._configs(setting, found).items():
            if not self.work.is_finished(stage):
                self.voice.say(
                    f"{_TITLES[stage]}: {_length(parts[stage])}, {_time(parts[stage].seconds, left)}"
                )
                self._fit(stage, config)
                self.work.finish(stage)
            left -= parts[stage].seconds

    def export(self) -> None:
        """The bundle in the work folder, with the precisions that pass their gates on the user's pictures."""
        best = self._file(ADVERSARIAL) / "best.pt"
        if not self.work.is_finished(EXPORT):
            self.voice.say("exporting the engines")
            loaded = load_defence(best)
            given = {**loaded.provenance, "classifier_given": self.request.classifier.says}
            config, given = (self._without_folder(tree) for tree in (loaded.config, given))
            clean = replace(loaded, config=config, provenance=given)
            write_bundle(clean, self.bundle, name=self.request.name, force=True)
            self.work.finish(EXPORT, *self.request.classifier.notes)
        if not self.work.is_finished(PRECISIONS):
            notes = [note for precision in LOWER if (note := self._lower(precision))]
            self.work.finish(PRECISIONS, *notes)

    def measure(self, found: Plan) -> Outcome:
        """Attack the bundle white-box, and write the figures into it."""
        path, count = self._file(FIGURES), min(self.request.images, len(self.test))
        if self.work.is_finished(MEASURE):
            return outcome.from_json(path.read_bytes())
        self.voice.say(f"attacking {count} test pictures, about {_minutes(found.evaluation_s)}")
        asked = measurement.Asked(
            images=self.test[slice(0, count)],
            eps=self.request.eps,
            seed=self.request.seed,
            adapt=self.request.adapt,
            subject=_subject(self.request),
            notes=self.work.state.notes,
        )
        with self.voice.bars() as on_progress:
            own = measurement.measure(
                self.bundle, asked, work=self._file("evaluation"), on_progress=on_progress
            )
        write_atomically(path, outcome.to_json(own))
        self.work.finish(MEASURE)
        return own

    def _configs(self, setting: Setting, found: Plan) -> dict[str, Config]:
        bank = self._file("bank.npz").resolve() if found.bank else None
        before = (self._file(BLIND) / "best.pt").resolve()
        return {
            BLIND: stages.blind(setting, bank=bank, **_lengths(found.blind)),
            ADVERSARIAL: stages.adversarial(setting, purifier=before, **_lengths(found.adversarial)),
        }

    def _make_bank(self, setting: Setting) -> None:
        images = attack_bank.in_memory(self.training)
        config = stages.blind(setting, epochs=1, epoch_steps=0, bank=None, save_every=0)
        with self.voice.bars() as on_progress:
            made = attack_bank.make(
                build(config.model, seed=setting.seed),
                images,
                eps=setting.eps,
                steps=plan.BANK_STEPS,
                seed=setting.seed,
                on_batch=lambda done: on_progress("attacked", done, len(images)),
            )
        made.save(self._file("bank.npz"))

    def _fit(self, stage: str, config: Config) -> None:
        out = self._file(stage)
        training, validation = attack_bank.split_for(config.recipe, self.training, config.data.validation)
        has_begun = (out / "last.pt").exists()
        fit(config, training, validation, out, resume=has_begun, report=self.voice.on_step)

    def _lower(self, precision: Precision) -> str | None:
        """Add a precision, judged on the test pictures; why it was left out, if so."""
        self.voice.say(f"{precision}: converting, and judging on the test pictures")
        try:
            lower_bundle(self.bundle, Lowering((precision,), data=self.request.pictures, dataset="folders"))
        except GateError as error:
            return f"{precision} left out: {error.what.partition('; worst layers')[0]}"
        return None

    def _others(self, own: Outcome) -> list[Outcome]:
        """The outcome of the other ``--adapt`` on the same classifier and pictures."""
        found = []
        for path in sorted(self.request.work.glob(f"adapt-*/{FIGURES}")):
            if path.parent != self.folder:
                other = outcome.from_json(path.read_bytes())
                if other.subject == own.subject:
                    found.append(other)
        return found

    def _without_folder(self, tree: Any) -> Any:
        """``tree`` with paths relative to the work folder: where that lies is nobody's business."""
        if isinstance(tree, dict):
            return {key: self._without_folder(value) for key, value in tree.items()}
        if isinstance(tree, str):
            return tree.removeprefix(f"{self.folder.resolve()}{os.sep}")
        return tree

    def _file(self, name: str) -> Path:
        return self.folder / name


def _open(request: Request, split: str) -> DataSet:
    return open_dataset(
        "folders",
        request.pictures,
        split,
        image_size=(request.classifier.height, request.classifier.width),
        classes=request.classifier.labels,
        train_share=request.split,
    )


def _check_out(out: Path, *, mine: bool) -> None:
    """Before the work: the place must be free, or hold the bundle that this work made."""
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} doesn't exist", hint="create it first")
    if out.exists() and not (mine and (out / MANIFEST).is_file()):
        raise UsageError(f"--out {out}: something is there already", hint="give another name, or remove it")


def _subject(request: Request) -> str:
    """What two outcomes must share to stand beside each other."""
    kept = {
        key: value
        for key, value in request.options.items()
        if key not in ("--family", "--adapt", "--hours", "--seed")
    }
    return sha256(msgspec.json.encode(kept, order="sorted")).hexdigest()


def _lengths(stage: Stage) -> dict[str, int]:
    return {"epochs": stage.epochs, "epoch_steps": stage.epoch_steps, "save_every": stage.save_every}


def _length(stage: Stage) -> str:
    steps = f" of {_count(stage.epoch_steps, 'step')}" if stage.epoch_steps else ""
    return f"{_count(stage.epochs, 'epoch')}{steps}"


def _count(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"


def _time(part: float, left: float) -> str:
    return f"about {_minutes(part)}; about {_minutes(left)} left in all"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


_TITLES = {
    BLIND: "training against attacks on the classifier alone",
    ADVERSARIAL: "training against attacks through the purifier too",
}
_HEAD = """\
# A stage of edge-protect; it can be run alone too:
# edge-train fit {stage}.toml --data PICTURES --out {stage}
"""
