"""What a checkpoint holds of a run, and the way back to it, exact to the bit."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from sdk.errors import UsageError
from trainer import config as configs
from trainer.data import DataSet

if TYPE_CHECKING:
    from trainer.run import Run


def state_of(run: Run) -> dict[str, Any]:
    """All that ``restore`` needs, and what export and evaluation read; see ``trainer.checkpoint``."""
    config = configs.to_dict(run.config)
    position = {
        "step": run.step,
        "best": run.best,
        "best_probe": run.best_probe,
        "figures": run.figures,
        "rolled_back_to": run.rolled_back_to,
    }
    return {
        "config": config,
        "labels": list(run.training.labels),
        "data": run.data_digest,
        "model": run.defence.state_dict(),
        "averaged": run.averaged.module.state_dict(),
        "n_averaged": run.averaged.n_averaged,
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "position": {**position, "attack_steps": getattr(run.plain_objective, "attack_steps", 1)},
        "provenance": {
            "config": config,
            "epochs": run.epoch,
            "training_images": len(run.training),
            "validation_accuracy": run.figures,
            "torch": str(torch.__version__),
            "ancestors": run.ancestors,
        },
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Bring ``run`` to a saved state.

    Raises:
        UsageError: it is of another config, or of a run on other images.
    """
    _check(run, state)
    run.defence.load_state_dict(state["model"])
    run.averaged.module.load_state_dict(state["averaged"])
    run.averaged.n_averaged.copy_(state["n_averaged"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    position = state["position"]
    run.step, run.best, run.best_probe = (position[key] for key in ("step", "best", "best_probe"))
    run.figures = position["figures"]
    run.rolled_back_to = position.get("rolled_back_to")
    run.ancestors = state["provenance"]["ancestors"]
    if hasattr(run.plain_objective, "attack_steps"):
        run.plain_objective.attack_steps = position["attack_steps"]


def digest_of(training: DataSet) -> str:
    """Of all labels and the first images: it tells a data set, its order and its bank from others."""
    digest = hashlib.sha256(training.targets.numpy().tobytes())
    digest.update(training[:64].pixels.numpy().tobytes())
    return digest.hexdigest()


def _check(run: Run, state: dict[str, Any]) -> None:
    # decoded, so that a run goes on which began before the config had a key that it has now
    if configs.from_dict(state["config"], where=f"checkpoint {run.out / 'last.pt'}") != run.config:
        raise UsageError(
            f"--resume: {run.out} holds a run of another config; give that one, or another --out"
        )
    n_images, digest = len(run.training), run.data_digest
    # likewise, before checkpoints had the digest
    if (state["provenance"]["training_images"], state.get("data", digest)) != (n_images, digest):
        raise UsageError(
            f"--resume: --data holds other training images than the run in {run.out} began with; "
            "give those, or another --out"
        )
