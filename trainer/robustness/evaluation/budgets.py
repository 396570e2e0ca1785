"""How much an evaluation may cost: which rungs it climbs, with how many steps, draws and images."""

from __future__ import annotations

import msgspec

from trainer.robustness.attacks.ball import Ball

L2_SWEEP = (0.25, 0.5, 2.0)
RUNGS = ("clean", "blind", "bpda-shrinkage", "bpda-purifier", "pgd", "arc", "autoattack", "square")


class Budget(msgspec.Struct, frozen=True):
    """One budget.

    Attributes:
        name: as given on the command line.
        rungs: a subset of ``RUNGS``, in their order.
        images: evaluated, unless the user asks for another number; all there are where it is None.
        draws: fresh draws that score each image on each rung; as many others choose the per-image worst.
        steps: of every gradient attack.
        samples: of the random inputs that each step's gradient averages over (EOT).
        step_size: of linf, in the images' units; 2.5 eps / steps, PGD's customary one, where it is None, and
            for l2, whose lengths are other ones.
        autoattack_samples: as ``samples``, for AutoAttack, which takes thousands of gradients an image.
        few: images on the costly rungs (ARC, AutoAttack, Square).
        queries: of Square, each averaged over ``query_draws`` draws.
        check_images: that the masking checks attack; 0 leaves the checks out.
        sweep: further eps of linf, in the images' units, at which the full-gradient attack is repeated on
            the check images; for l2, ``L2_SWEEP`` times the ladder's wherever there is a sweep.
        suspicion_images: on which the suspicion score's ROC is measured; 0 leaves it out.
    """

    name: str
    rungs: tuple[str, ...]
    images: int | None
    draws: int = 10
    steps: int = 20
    samples: int = 8
    step_size: float | None = None
    autoattack_samples: int = 4
    few: int = 200
    queries: int = 1000
    query_draws: int = 5
    check_images: int = 0
    sweep: tuple[float, ...] = ()
    suspicion_images: int = 0

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
        Budget("quick", ("clean", "blind", "bpda-purifier", "pgd"), images=128, check_images=16),
        Budget(
            "standard",
            RUNGS,
            images=1000,
            steps=40,
            samples=16,
            step_size=2 / 255,
            check_images=100,
            sweep=(2 / 255, 4 / 255, 16 / 255),
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
            check_images=100,
            sweep=(2 / 255, 4 / 255, 16 / 255),
            suspicion_images=200,
        ),
    )
}
