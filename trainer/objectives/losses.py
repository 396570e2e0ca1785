"""The terms of the training losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.defence import Defence, Draw

RIDGE = 1e-3  # on the Gram matrix's diagonal: members that agree have a large, not an infinite, loss


def code_change(code: Tensor, reference: Tensor) -> Tensor:
    """||code - reference||_1 / ||reference||_1 over a batch, a scalar; ``reference`` takes no gradient."""
    reference = reference.detach()
    return (code - reference).abs().sum() / reference.abs().sum().clamp(min=1e-6)


def diversity(logits: Tensor, labels: Tensor, *, alpha: float = 2.0, beta: float = 0.5) -> Tensor:
    """Adaptive diversity promotion (Pang et al., ICML 2019), to be **minimized**: -(alpha H + beta log det).

    H is the entropy of the mean prediction. The determinant is of the Gram matrix of the members' normalized
    predictions without the true class, the squared volume that they span: 1 when orthogonal, 0 when two
    agree.

    Args:
        logits: (M, B, C), M members.
        labels: (B,) int64.

    Returns:
        The mean over the batch, a scalar.
    """
    with torch.autocast(
        logits.device.type, enabled=False
    ):  # a determinant in half precision can come out negative
        probabilities = logits.float().softmax(-1)  # (M, B, C)
        mean = probabilities.mean(0)
        entropy = -(mean * mean.clamp(min=1e-12).log()).sum(-1)  # (B,)
        wrong = F.one_hot(labels, logits.shape[-1]) == 0
        rest = probabilities.transpose(0, 1)[wrong[:, None].expand(-1, len(logits), -1)]
        rest = F.normalize(rest.view(len(labels), len(logits), -1), dim=-1)  # (B, M, C - 1)
        gram = rest @ rest.transpose(1, 2) + RIDGE * torch.eye(len(logits), device=logits.device)
        return -(alpha * entropy + beta * torch.logdet(gram)).mean()


def pair_diversity(defence: Defence, images: Tensor, labels: Tensor, draw: Draw) -> Tensor:
    """Diversity over (i, j) pairs: the drawn sub-encoder and its neighbour, if any, by J members."""
    indices = [(draw.purifier + shift) % defence.n_purifiers for shift in range(min(2, defence.n_purifiers))]
    purified = [defence.purifier(images, index, draw.random_input) for index in indices]
    logits = defence.classifier.all_logits(torch.cat(purified))  # (J, len(indices) B, C)
    return diversity(torch.cat(logits.chunk(len(indices), dim=1)), labels)
