"""Warm starts: initialize a run's model from earlier runs, or from a bundle's twin."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdk.errors import UsageError
from trainer.config import Start
from trainer.loop.widening import widened
from trainer.models import Defence, adapters
from trainer.trained import open_trained


def begin(
    defence: Defence, start: Start, *, seed: int = 0, known_factory: str | None = None
) -> dict[str, Any]:
    """Copy the weights that ``start`` names into ``defence``: a checkpoint's average, or a bundle's twin.

    A source's adapters are merged if ``defence`` has none; adapters that it adds keep their initial weights.

    Args:
        seed: of the noise on widened weights.
        known_factory: the classifier's code that the config names, hence that a source may name too.

    Returns:
        The provenance of each source, by the name of its run or bundle.

    Raises:
        CheckpointError: a checkpoint can't be read.
        BundleError: a bundle can't be read, or has no twin.
        UsageError: the source's weights have other shapes than the config's model.
    """
    ancestors: dict[str, Any] = {}
    for key in ("purifier", "classifier", "features", "widen"):
        given = getattr(start, key)
        if given is None:
            continue
        source = open_trained(Path(given), known_factory=known_factory)
        where = f"start.{key} {given}"
        ancestors[source.name] = source.provenance
        if key == "purifier":
            if not adapters.present(defence.purifier):
                adapters.merge(source.defence.purifier)
            _copy(source.defence.purifier, defence.purifier, where)
            continue
        classifier = source.defence.classifier
        if key == "widen":
            state = widened(classifier, defence.classifier, noise=start.widen_noise, seed=seed, where=where)
            defence.classifier.load_state_dict(state)
        else:
            own = _last_linear(defence.classifier) if key == "features" else frozenset()
            _copy(classifier, defence.classifier, where, untouched=own)
    return ancestors


def _last_linear(classifier: nn.Module) -> Set[str]:
    """Names of weight and bias of each member's last linear layer, in the classifier's state."""
    found: set[str] = set()
    for prefix, member in classifier.named_modules():
        if prefix.startswith("members.") and prefix.count(".") == 1:
            linear = [name for name, layer in member.named_modules() if isinstance(layer, nn.Linear)]
            found |= {f"{prefix}.{linear[-1]}.{part}" for part in ("weight", "bias")} if linear else set()
    return found


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module, where: str, *, untouched: Set[str] = frozenset()) -> None:
    """Copy the state of ``source``, all names but ``untouched``; ``target`` may have adapters of its own."""
    given, wanted = source.state_dict(), target.state_dict()
    given = {name: value for name, value in given.items() if name not in untouched}
    own = (adapters.names(target) - given.keys()) | untouched
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
            f"{where}: it doesn't fit the config's model: {wrong[0]}: expected {shapes[0]}, got {shapes[1]}",
            hint="give the model section that it was trained with",
        )
    target.load_state_dict(given, strict=False)
