"""Optimizer, learning-rate schedule, and exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer import config as configs
from trainer.models import Defence

Tensors = tuple[Tensor, ...] | list[Tensor]


def make_optimizer(defence: Defence, config: configs.Optimizer) -> Optimizer:
    """SGD or AdamW; purifiers, norms and biases take no weight decay."""
    kernels = [p for p in defence.classifier.parameters() if p.ndim > 1]
    offsets = [p for p in defence.classifier.parameters() if p.ndim <= 1]
    purifiers = list(defence.purifier.parameters())
    groups = [
        {"params": kernels, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": offsets, "lr": config.learning_rate, "weight_decay": 0.0},
        {"params": purifiers, "lr": config.purifier_learning_rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, betas=(config.momentum, 0.95))
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)


def make_schedule(optimizer: Optimizer, config: configs.Optimizer, steps: int) -> LRScheduler:
    """One cycle over ``steps``, with each group's rate as its peak."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    warmup = config.warmup
    if warmup * steps == 1:  # torch divides by the steps of the rise less one: begin at the peak
        warmup *= 1 - 1e-9
    return OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=warmup, cycle_momentum=False)


def make_average(defence: Defence, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers.

    The decay warms up, so that the weights of the first steps are soon forgotten.
    """

    def average(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
        warm = (1 + int(n_averaged)) / (10 + int(n_averaged))
        step = get_ema_multi_avg_fn(min(decay, warm))  # type: ignore[no-untyped-call]  # torch's own
        step(averaged, current, n_averaged)

    return AveragedModel(defence, multi_avg_fn=average, use_buffers=True)
