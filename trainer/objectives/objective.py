"""Base class of the training objectives: what the training loop calls."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.defence import Defence, Draw

#: The loss, a scalar, and its detached terms by name.
LossAndTerms = tuple[Tensor, dict[str, Tensor]]


class Objective(nn.Module):
    """A training loss that holds the defence; see ``trainer.objectives`` for the arguments of ``forward``.

    Attributes:
        defence: what is trained.
        attack_steps: gradient steps of the attack; the collapse guard raises it.
        freezes_classifier: whether the purifier alone is trained.
    """

    attack_steps: int = 1
    freezes_classifier: bool = False

    def __init__(self, defence: Defence) -> None:
        super().__init__()
        self.defence = defence

    def freeze_classifier(self) -> None:
        """Leave the classifier as it is, its norms' statistics included."""
        self.freezes_classifier = True
        self.defence.classifier.requires_grad_(False)

    def keep_frozen(self) -> None:
        """Undo what ``train`` did to a frozen classifier; called at the start of each forward pass."""
        if self.freezes_classifier:
            self.defence.classifier.eval()

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
