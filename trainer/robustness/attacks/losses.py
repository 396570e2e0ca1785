"""What an attack maximizes: one number per image, larger the more wrong the model is.

Each takes log-probabilities or logits, (B, C), and labels, (B,); all three are blind to a constant added to a
row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label), (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit less the true one, (B,): positive where the model errs (Carlini & Wagner)."""
    return best_wrong(logits, labels) - true(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio, (B,): the margin over the gap from the first logit to the third.

    Croce & Hein (ICML 2020), equation 6; blind to the logits' scale, so that large ones don't stop the
    gradient. It needs three classes.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The difference of logits ratio towards one wrong class each, ``targets`` (B,): (B,).

    Croce & Hein (ICML 2020), equation 7; below four classes the bare difference, as there is no fourth logit.
    """
    gap = true(logits, targets) - true(logits, labels)
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, dim=1).values
    return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def true(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit, (B,)."""
    return logits.gather(1, labels[:, None]).squeeze(1)


def best_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest logit of another class, (B,)."""
    others = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(others, -torch.inf).amax(1)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}
