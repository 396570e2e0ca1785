"""What an attacker differentiates or queries in place of the defence.

The defence is random, so the attacker works on its mean over the bank. The classifiers are averaged exactly;
the purifiers too, wherever there are at most as many as ``samples``, each under random inputs of its own.

There are two means of sub-models. ``log_mean`` averages probabilities, which is the expectation itself; but a
sub-model that is sure of its answer adds no gradient to it, though it may be near its boundary. ``mean_log``
averages log-probabilities, so every sub-model adds the gradient of its own margin; margin and targeted losses
take it.

Purifying can hide gradients, so the backward pass may take a way around (BPDA, Athalye et al., ICML 2018):
the forward pass is always the defence itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models import Defence, Draw
from trainer.models.purifier import PurifierBank
from trainer.models.ren import SparseEncodingPurifier, contrast_ratio, pad_to_multiple, sparse_purify
from trainer.robustness.defences.judges import Judge
from trainer.robustness.defences.quantized import EnginePurifier

Purify = Callable[[Defence, Tensor, Draw], Tensor]
Mean = Callable[[Tensor], Tensor]  #: log-probabilities of sub-models, (M, B, C), to the model's, (B, C)


class Model(Protocol):
    """What an attack needs of a model: a call is one sample of it, which depends on the generator alone."""

    n_classes: int

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits or log-probabilities (B, n_classes) of ``images`` (B, 3, H, W) in [0, 1]."""
        ...


def full_gradient(defence: Defence, images: Tensor, draw: Draw) -> Tensor:
    """The purified images with their true gradient."""
    result: Tensor = defence.purify(images, draw)
    return result


def identity_purifier(defence: Defence, images: Tensor, draw: Draw) -> Tensor:
    """The purified images, with the gradient of leaving the images as they are."""
    return straight_through(defence.purify(images, draw).detach(), images)


def identity_shrinkage(defence: Defence, images: Tensor, draw: Draw) -> Tensor:
    """The purified images, with the gradient of a sparse coding that neither shrinks, clamps nor rounds."""
    purified, purifier = defence.purify(images, draw).detach(), _unrounded(defence)
    assert isinstance(purifier, SparseEncodingPurifier)  # by has_shrinkage
    return straight_through(purified, _without_shrinkage(purifier, images, draw))


def has_shrinkage(defence: Defence) -> bool:
    """Whether ``identity_shrinkage`` applies."""
    purifier = _unrounded(defence)
    return isinstance(purifier, SparseEncodingPurifier) and purifier.threshold is not None


def log_mean(log_probabilities: Tensor) -> Tensor:
    """The log of the mean probabilities over the first axis."""
    return log_probabilities.logsumexp(0) - math.log(len(log_probabilities))


def mean_log(log_probabilities: Tensor) -> Tensor:
    """The mean log-probabilities over the first axis."""
    return log_probabilities.mean(0)


class BankMean:
    """The defence's mean over its sub-models.

    A call's draws are the same for all images of the batch, so that under one seed the model is a function of
    each image.

    Args:
        defence: in eval mode.
        n_classes: number of logits.
        samples: purifier passes that a call averages over, rounded up to a multiple of the bank's size K;
            fewer than K take a random part of the bank.
        purify: how the backward pass goes through the purifier.
        mean: of the sub-models.
        bfloat16: compute in it, which takes about half of the time on a CPU that has its instructions.
    """

    def __init__(
        self,
        defence: Defence,
        *,
        n_classes: int,
        samples: int,
        purify: Purify = full_gradient,
        mean: Mean = log_mean,
        bfloat16: bool = False,
    ) -> None:
        size = defence.n_purifiers
        self.defence = defence
        self.mean = mean
        self.bfloat16 = bfloat16
        self.purify = purify
        self.samples = samples if samples < size else size * math.ceil(samples / size)
        self.n_classes = n_classes

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.mean(self.members(images, generator))

    @property
    def n_members(self) -> int:
        """Sub-models that a call averages: samples * J."""
        result: int = self.samples * self.defence.n_classifiers
        return result

    def members(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Log-probabilities of the sub-models, (M, B, C)."""
        rows = torch.arange(self.samples).repeat_interleave(len(images))
        logits = self._logits(
            images.repeat(self.samples, 1, 1, 1), self.sample(generator)[rows]
        )  # (J, S B, C)
        return logits.view(-1, len(images), self.n_classes)

    def member(self, index: int, images: Tensor, generator: torch.Generator) -> Tensor:
        """Those of one of the sub-models, (B, C)."""
        classifier, sample = divmod(index, self.samples)
        rows = torch.full((len(images),), sample)
        return self._logits(images, self.sample(generator)[rows])[classifier]

    def sample(self, generator: torch.Generator) -> Draw:
        """``samples`` draws, stratified over the bank."""
        draw = self.defence.draw(self.samples, generator)
        order = torch.randperm(self.defence.n_purifiers, generator=generator)
        return Draw(order[torch.arange(self.samples) % len(order)], draw.classifier, draw.random_input)

    def _logits(self, images: Tensor, draw: Draw) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            logits = self.defence.classifier.all_logits(self.purify(self.defence, images, draw))
        result: Tensor = logits.float().log_softmax(-1)
        return result


class Frozen:
    """A model under draws that never change: one deterministic function, as attacks with a memory need it."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model = model
        self.seed = seed
        self.n_classes = model.n_classes

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.model(images, torch.Generator().manual_seed(self.seed))


class Raw:
    """The mean of the classifiers without the purifier, behind a fixed front.

    ``front`` maps images to images and passes gradients on in whatever way it chooses.
    """

    def __init__(
        self,
        defence: Defence,
        *,
        n_classes: int,
        front: Callable[[Tensor], Tensor] = lambda images: images,
        mean: Mean = log_mean,
    ) -> None:
        self.mean = mean
        self.classifier = defence.classifier
        self.front = front
        self.n_classes = n_classes

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.mean(self.members(images, generator))

    def members(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Log-probabilities of each classifier, (J, B, C)."""
        result: Tensor = self.classifier.all_logits(self.front(images)).log_softmax(-1)
        return result


class Queries:
    """A judge as one without the weights sees it: mean probabilities over ``draws`` draws; no gradient."""

    def __init__(self, judge: Judge, *, draws: int, n_classes: int) -> None:
        self.judge = judge
        self.draws = draws
        self.n_classes = n_classes

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        key = int(torch.randint(2**62, (), generator=generator))
        probabilities = self.judge.probabilities(images, draws=self.draws, key=("query", key))
        return probabilities.mean(0).clamp(min=1e-12).log()


def straight_through(value: Tensor, gradient_of: Tensor) -> Tensor:
    """``value`` forward, bit for bit; the gradient of ``gradient_of`` backward."""
    return value + (gradient_of - gradient_of.detach())


def _unrounded(defence: Defence) -> PurifierBank:
    """The purifier, of a fake-quantized twin that of the FP32 one."""
    purifier = defence.purifier
    return (purifier.unrounded or purifier) if isinstance(purifier, EnginePurifier) else purifier


def _without_shrinkage(purifier: SparseEncodingPurifier, images: Tensor, draw: Draw) -> Tensor:
    """``sparse_purify`` with every threshold 0 and an unclamped output."""
    atoms, step = purifier.unit_atoms(), purifier.step_size()
    active = (purifier.subset[draw.purifier] * draw.random_input)[:, :, None, None]
    zero = torch.zeros_like(active)
    stride, padding = purifier.stride, purifier.padding
    code, _ = sparse_purify(images, atoms, active, zero, step, purifier.iterations, stride, padding)
    height, width = images.shape[2:]
    images = pad_to_multiple(images, stride)
    mean = images.mean(dim=(2, 3), keepdim=True)
    decoded = F.conv_transpose2d(code, atoms, stride=stride, padding=padding)
    result: Tensor = mean + decoded * contrast_ratio(images - mean, decoded)
    return result[:, :, :height, :width]
