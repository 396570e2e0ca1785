"""How much an evaluation may cost: which rungs it climbs, with how many steps, draws and images."""

from __future__ import annotations

import msgspec

from trainer.robustness.attacks.ball import Ball

L2_SWEEP = (0.25, 0.5, 2.0)
RUNGS = (
    "clean",
    "ordinary",
    "blind",
    "transfer",
    "pgd-margin",
    "apgd-t",
    "pgd",
    "bpda-shrinkage",
    "bpda-purifier",
    "arc",
    "square",
    "autoattack",
)
EVERY_SURVIVOR = 10**9


class Budget(msgspec.Struct, frozen=True):
    """One budget.

    Attributes:
        name: as given on the command line.
        rungs: a subset of ``RUNGS``, in their order.
        images: evaluated, unless the user asks for another number; all there are where it is None.
        draws: fresh draws that score each image on each rung; as many others choose the per-image worst.
        steps: of every gradient attack.
        samples: purifier passes that each step's gradient averages over (EOT), at most; fewer where their
            mean gradient is as good, see ``eot``.
        step_size: of linf, in the images' units; 2.5 eps / steps, PGD's customary one, where it is None, and
            for l2, whose lengths are other ones. The margin rung has falling steps of its own.
        few: images on which cross-entropy and BPDA are climbed; on the other survivors too where they find a
            point more there than the rungs before them.
        survivors: of the rungs before, whom ARC, Square and AutoAttack attack.
        targets, target_steps: of APGD-T, which attacks every survivor.
        arc_rounds: of ARC, over all pairs of purifier and classifier.
        autoattack_samples: purifier passes that AutoAttack's frozen model averages over.
        queries: of Square, each averaged over ``query_draws`` draws.
        check_images: that the masking checks attack; 0 leaves the checks out.
        sweep: further eps of linf, in the images' units, at which the margin attack is repeated on the check
            images; for l2, ``L2_SWEEP`` times the ladder's wherever there is a sweep.
        suspicion_images: on which the suspicion score's ROC is measured; 0 leaves it out.
        is_headline: whether its per-image worst may stand in a bundle as the figure to quote.
    """

    name: str
    rungs: tuple[str, ...]
    images: int | None
    draws: int = 10
    steps: int = 20
    samples: int = 8
    step_size: float | None = None
    few: int = 200
    survivors: int = 50
    targets: int = 3
    target_steps: int = 50
    arc_rounds: int = 10
    autoattack_samples: int = 2
    queries: int = 1000
    query_draws: int = 5
    check_images: int = 0
    sweep: tuple[float, ...] = ()
    suspicion_images: int = 0
    is_headline: bool = True

    def step_size_in(self, ball: Ball) -> float | None:
        """Of a gradient attack in ``ball``."""
        return self.step_size if ball.norm == "linf" else None

    def sweep_of(self, ball: Ball) -> tuple[Ball, ...]:
        """The balls of the sweep beside ``ball``."""
        eps = self.sweep if ball.norm == "linf" or not self.sweep else (part * ball.eps for part in L2_SWEEP)
        return tuple(Ball(ball.norm, size) for size in eps)


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("clean", ("clean",), images=None, draws=1),
        Budget(
            "quick",
            ("clean", "ordinary", "blind", "transfer", "pgd-margin", "pgd", "bpda-purifier"),
            images=128,
            check_images=16,
            is_headline=False,
        ),
        Budget(
            "standard",
            RUNGS,
            images=1000,
            steps=40,
            samples=16,
            step_size=2 / 255,
            queries=500,
            check_images=100,
            sweep=(1 / 255, 2 / 255, 4 / 255, 6 / 255, 12 / 255, 16 / 255),
            suspicion_images=100,
        ),
        Budget(
            "paper",
            RUNGS,
            images=1000,
            steps=200,
            samples=20,
            step_size=2 / 255,
            few=1000,
            survivors=EVERY_SURVIVOR,
            targets=9,
            target_steps=100,
            arc_rounds=20,
            autoattack_samples=4,
            check_images=100,
            sweep=(1 / 255, 2 / 255, 4 / 255, 6 / 255, 12 / 255, 16 / 255),
            suspicion_images=200,
        ),
    )
}
