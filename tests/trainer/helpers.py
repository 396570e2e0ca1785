"""What tests of training read of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer import checkpoint


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(path)
    return {**state["model"], **{f"averaged.{name}": value for name, value in state["averaged"].items()}}
