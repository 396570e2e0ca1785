"""Processes and devices of a training run."""

from __future__ import annotations

import logging
import os
from typing import Literal

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def open_fabric(precision: Precision) -> Fabric:
    """One process on the best device, or as many processes as ``torchrun`` started."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # or each announces what the config says
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if world == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision)
    # a batch may draw only some of the classifiers, which leaves the others' weights without a gradient
    strategy = DDPStrategy(find_unused_parameters=True)
    return Fabric(
        accelerator="auto", strategy=strategy, devices=local, num_nodes=world // local, precision=precision
    )
