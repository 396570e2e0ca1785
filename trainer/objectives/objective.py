"""Base class of the training objectives: what the training loop calls."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.defence import Draw

#: The loss, a scalar, and its detached terms by name.
LossAndTerms = tuple[Tensor, dict[str, Tensor]]


class Objective(nn.Module):
    """A training loss that holds the defence; see ``trainer.objectives`` for the arguments of ``forward``.

    Attributes:
        attack_steps: gradient steps of the attack; the collapse guard raises it.
    """

    attack_steps: int = 1

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        draw: Draw,
        noise: Tensor,
        *,
        step: int,
        share: float,
        soft_targets: Tensor | None = None,
    ) -> LossAndTerms:
        """Loss and detached terms."""
        raise NotImplementedError

    def steps_at(self, share: float) -> int:
        """Number of attack steps when ``share`` of training is over."""
        return self.attack_steps

    def after_backward(self) -> None:
        """Undo what the forward pass changed for the backward pass alone; called after each backward pass."""
