"""A defence in torch as a target of the evaluation."""

from __future__ import annotations

from tests.trainer.robustness.networks import LABELS, SIDE
from trainer.models import Defence
from trainer.robustness.defences.judges import TorchJudge
from trainer.robustness.defences.targets import Target


def as_target(defence: Defence, name: str, *, n_draws: int = 10**6) -> Target:
    return Target(
        name=name,
        digest=name,
        labels=LABELS,
        judge=TorchJudge(defence, "torch"),
        twin=defence,
        attacked="itself",
        height=SIDE,
        width=SIDE,
        provenance={},
        n_draws=n_draws,
    )
