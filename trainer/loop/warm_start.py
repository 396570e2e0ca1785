"""Begin a run with the weights of earlier ones: of the stage before it, of the classifier it defends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdk.errors import UsageError
from trainer import checkpoint
from trainer.config import Start
from trainer.models import Defence, adapters


def begin(defence: Defence, start: Start) -> dict[str, Any]:
    """Copy the averaged weights of the checkpoints that ``start`` names into ``defence``.

    Returns:
        The provenance of each checkpoint, by the name of its run.

    A checkpoint's adapters are merged where ``defence`` has none; adapters that it adds keep their own
    first weights.

    Raises:
        CheckpointError: a checkpoint can't be read.
        UsageError: its weights are of another shape than the config's model.
    """
    ancestors: dict[str, Any] = {}
    if start.purifier is not None:
        loaded = checkpoint.load_defence(Path(start.purifier))
        purifier = loaded.defence.purifier
        ancestors[loaded.config["name"]] = loaded.provenance
        if not adapters.present(defence.purifier):
            adapters.merge(purifier)
        _copy(purifier, defence.purifier, f"start.purifier {start.purifier}")
    if start.classifier is not None:
        loaded = checkpoint.load_defence(Path(start.classifier))
        ancestors[loaded.config["name"]] = loaded.provenance
        _copy(loaded.defence.classifier, defence.classifier, f"start.classifier {start.classifier}")
    return ancestors


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module, where: str) -> None:
    given, wanted = source.state_dict(), target.state_dict()
    own = adapters.names(target) - given.keys()
    wrong = [
        name
        for name in sorted((given.keys() | wanted.keys()) - own)
        if name not in given or name not in wanted or given[name].shape != wanted[name].shape
    ]
    if wrong:
        shapes = [
            tuple(state[wrong[0]].shape) if wrong[0] in state else "nothing" for state in (wanted, given)
        ]
        raise UsageError(
            f"{where}: it doesn't fit the config's model: {wrong[0]}: expected {shapes[0]}, got {shapes[1]}; "
            "give the model section that the checkpoint was trained with"
        )
    target.load_state_dict(given, strict=False)
