"""State of a training run, and its operations: train a step or an epoch, validate, save, load, roll back.

Each step's random numbers are keyed by (seed, epoch, step) and drawn for the global batch, of which every
process takes its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from trainer import checkpoint, objectives
from trainer import config as configs
from trainer.config import Config
from trainer.data import DataSet
from trainer.data.soft_targets import OpenedTargets
from trainer.loop.batches import Batch, batches, steps_per_epoch
from trainer.loop.errors import TrainingError
from trainer.loop.optimization import make_average, make_optimizer, make_schedule
from trainer.loop.progress import Clock, Progress
from trainer.loop.resume import check_same_run, check_same_soft_targets, digest_of, with_digest
from trainer.loop.validation import measure, pictures
from trainer.loop.warm_start import begin
from trainer.models import Defence, Draw, build
from trainer.models.onnx_classifier import digest_of as digest_of_classifier
from trainer.objectives.objective import LossAndTerms


class Run:
    """The state of a run: model, average, optimizer, schedule and position.

    Args:
        out: folder that ``save`` writes to.
        soft_targets: of the training images, if the recipe names some.
    """

    def __init__(
        self,
        config: Config,
        fabric: Fabric,
        training: DataSet,
        out: Path,
        *,
        soft_targets: OpenedTargets | None = None,
    ) -> None:
        self.fabric, self.training, self.out = fabric, training, out
        self.soft_targets = soft_targets
        self.defence = build(config.model, seed=config.seed)
        self.config = config = with_digest(config, digest_of_classifier(self.defence.classifier))
        self.steps_per_epoch = steps_per_epoch(len(training), config)
        self.steps = config.optimizer.epochs * self.steps_per_epoch
        self.step = 0
        self.best = self.best_probe = -1.0
        self.rolled_back_to: int | None = None  # a step
        self.figures: dict[str, float] = {}
        self.ancestors: dict[str, Any] = {}
        self.layout = torch.channels_last if config.optimizer.channels_last else torch.contiguous_format
        self.defence.to(memory_format=self.layout)  # type: ignore[call-overload]  # it takes one
        self.averaged = make_average(self.defence, config.optimizer.ema).to(fabric.device)
        optimizer = make_optimizer(self.defence, config.optimizer)
        self.schedule = make_schedule(optimizer, config.optimizer, self.steps)
        self.n_parts = fabric.world_size * config.optimizer.micro_batches  # of a global batch
        self.plain_objective = objectives.build(self.defence, config, n_parts=self.n_parts)
        self.objective, self.optimizer = fabric.setup(self.plain_objective, optimizer)

    def begin(self) -> None:
        """At the weights of the checkpoints that the config starts from."""
        self.ancestors = begin(
            self.defence,
            self.config.start,
            seed=self.config.seed,
            known_factory=self.config.model.classifier.factory,
        )
        self.ancestors |= {} if self.soft_targets is None else self.soft_targets.ancestor

    @property
    def average(self) -> Defence:
        """The defence with the averaged weights."""
        defence = self.averaged.module
        assert isinstance(defence, Defence)
        return defence

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.steps_per_epoch

    def train_epoch(self, clock: Clock) -> Iterator[Progress]:
        """The epoch's updates from the run's position on: one each time that the next is asked for."""
        clock.begin_epoch()
        for batch in self.rest_of_epoch():
            terms = self.train_step(*batch)
            yield clock.tick(self.step, terms)
            if self.is_save_due():
                self.save()

    def rest_of_epoch(self) -> Iterator[Batch]:
        """The epoch's global batches from the run's position on."""
        first = self.step % self.steps_per_epoch
        return batches(self.training, self.config, self.epoch, first, self.soft_targets)

    def train_step(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        soft_targets: Tensor | None = None,
    ) -> dict[str, float]:
        """One update on a global batch; returns this process's terms of the loss.

        Raises:
            TrainingError: one of them is not finite.
        """
        self.defence.train()
        draw = self.defence.draw(len(labels), generator, strength=self._mask_strength())
        noise = torch.rand(images.shape, generator=generator)
        self.optimizer.zero_grad()
        parts = self.own_rows(len(labels))
        for count, rows in enumerate(parts, start=1):
            with self.fabric.no_backward_sync(self.objective, enabled=count < len(parts)):
                soft = None if soft_targets is None else soft_targets[rows]
                part = images[rows], labels[rows], draw[rows], noise[rows]
                loss, terms = self.loss(*part, step=self.step, soft_targets=soft)
                self.fabric.backward(loss / len(parts))
                self.plain_objective.after_backward()
        self.optimizer.step()
        self.schedule.step()
        self.defence.after_update()
        self.averaged.update_parameters(self.defence)
        self.step += 1
        values = {name: float(term) for name, term in terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._diverged(f"the loss's term {name} is {value}")
        return values

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        draw: Draw,
        noise: Tensor,
        *,
        step: int,
        soft_targets: Tensor | None = None,
    ) -> LossAndTerms:
        """The objective of a (part of a) batch in ``step`` and its terms; see ``trainer.objectives``."""
        device = self.fabric.device
        loss: LossAndTerms = self.objective(
            images.to(device).contiguous(memory_format=self.layout),
            labels.to(device),
            draw.to(device),
            noise.to(device),
            step=step,
            share=step / self.steps,
            soft_targets=None if soft_targets is None else soft_targets.to(device),
        )
        return loss

    def own_rows(self, batch_size: int) -> list[slice]:
        """This process's rows of the global batch, a slice for each micro-batch.

        Every part takes each n-th row, so that what an objective does with the first share of a batch is done
        with the same images however many parts there are.
        """
        micro_batches = self.config.optimizer.micro_batches
        first = self.fabric.global_rank * micro_batches
        return [slice(part, batch_size, self.n_parts) for part in range(first, first + micro_batches)]

    def _mask_strength(self) -> float:
        """From 0 to 1 between the two shares of training that the config names."""
        start, end = self.config.loss.mask_ramp
        return min(1.0, max(0.0, (self.step / self.steps - start) / (end - start)))

    def validate(self, images: DataSet) -> dict[str, float]:
        """Accuracy of the averaged weights, and under adversarial training of both weights under attack.

        ``images`` come attacked from a masked recipe's bank; where it has none, the attack is made here.
        """
        config = self.config
        with self.fabric.autocast():
            figures = measure(self.average, self.defence, images, config.recipe, config.seed)
        return self.fabric.broadcast(figures)  # norms' statistics, and so decisions, differ between processes

    def pictures(self, images: DataSet) -> Tensor:
        """What the averaged purifier makes of attacked images; see ``trainer.loop.validation.pictures``."""
        with self.fabric.autocast():
            return pictures(self.average, images, self.config.seed, eps=self.config.recipe.eps)

    def has_collapsed(self, figures: dict[str, float]) -> bool:
        """Catastrophic overfitting: they withstand the one-step attack of training, and PGD no more."""
        probe = figures.get("robust_now", 0.0)
        collapsed = self.best_probe > 0.2 and probe < 0.5 * self.best_probe
        self.best_probe = max(self.best_probe, probe)
        return collapsed

    def roll_back(self) -> None:
        """To the last epoch's end, and on from there with one attack step more than led to the collapse.

        Raises:
            TrainingError: the run was rolled back to there before, and collapsed again.
        """
        steps = self.plain_objective.steps_at((self.step - 1) / self.steps)
        before = self.rolled_back_to
        self.load_state_dict(checkpoint.load(self.out / "epoch.pt"))
        if self.step == before:
            raise TrainingError(
                f"{self.out}: robust accuracy collapsed again from step {self.step} on, with {steps} attack "
                "steps",
                hint="lower optimizer.learning_rate or recipe.eps, and start again in another --out",
            )
        self.rolled_back_to = self.step
        self.plain_objective.attack_steps = steps + 1
        self.save()  # or --resume would collapse first

    def is_save_due(self) -> bool:
        every = self.config.optimizer.save_every
        return bool(every) and self.step % every == 0 and self.step % self.steps_per_epoch != 0

    def save(self, figures: dict[str, float] | None = None) -> None:
        """``last.pt``; at an epoch's end, with ``figures``, also ``best.pt`` if they are the best.

        A recipe that may collapse also leaves ``epoch.pt``, the state that ``roll_back`` returns to.

        Raises:
            TrainingError: a weight is not finite; the checkpoints stay as they are.
            CheckpointError: a checkpoint can't be written.
        """
        self._check_weights()
        is_best = False
        if figures is not None:
            self.figures = figures
            score = figures.get("robust", figures["purified"])
            is_best = score >= self.best
            self.best = max(self.best, score)
        if self.fabric.is_global_zero:
            state = self.state_dict()
            if is_best:  # before the one that --resume goes on from, or a kill between the two would lose it
                checkpoint.save(self.out / "best.pt", state)
            if figures is not None and "robust_now" in figures:
                checkpoint.save(self.out / "epoch.pt", state)
            checkpoint.save(self.out / "last.pt", state)
        self.fabric.barrier()

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict``, export and evaluation need; see ``trainer.checkpoint``."""
        config = configs.to_dict(self.config)
        position = {
            "step": self.step,
            "best": self.best,
            "best_probe": self.best_probe,
            "figures": self.figures,
            "rolled_back_to": self.rolled_back_to,
        }
        state = {
            "config": config,
            "labels": list(self.training.labels),
            "data": self.data_digest,
            "model": self.defence.state_dict(),
            "averaged": self.averaged.module.state_dict(),
            "n_averaged": self.averaged.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "position": {**position, "attack_steps": self.plain_objective.attack_steps},
            "provenance": {
                "config": config,
                "epochs": self.epoch,
                "training_images": len(self.training),
                "validation_accuracy": self.figures,
                "torch": str(torch.__version__),
                "ancestors": self.ancestors,
                **({"soft_targets": self.soft_targets.provenance} if self.soft_targets is not None else {}),
            },
        }
        return checkpoint.with_classifier_file(state, self.defence)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            UsageError: it is of another config, or of a run on other images.
        """
        check_same_run(state, self.config, self.training, self.data_digest, self.out)
        check_same_soft_targets(state, self.soft_targets, self.out)
        self.defence.load_state_dict(state["model"])
        self.averaged.module.load_state_dict(state["averaged"])
        self.averaged.n_averaged.copy_(state["n_averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        position = state["position"]
        self.step, self.best, self.best_probe = (position[key] for key in ("step", "best", "best_probe"))
        self.figures = position["figures"]
        self.rolled_back_to = position.get("rolled_back_to")
        self.ancestors = state["provenance"]["ancestors"]
        self.plain_objective.attack_steps = position["attack_steps"]

    def _check_weights(self) -> None:
        weights = (*self.defence.state_dict().values(), *self.averaged.module.state_dict().values())
        finite = [tensor.isfinite().all() for tensor in weights if tensor.is_floating_point()]
        if not torch.stack(finite).all():
            raise self._diverged("a weight is not finite")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self.out}: step {self.step}: {what}",
            hint="lower optimizer.learning_rate or "
            "optimizer.purifier_learning_rate, and start again in another --out",
        )

    @cached_property
    def data_digest(self) -> str:
        """Of the training images; see ``trainer.loop.resume``."""
        return digest_of(self.training)
