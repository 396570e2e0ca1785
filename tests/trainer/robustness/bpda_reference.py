"""PGD past REN's purifier (BPDA), written from the definition: the forward pass is the defence's own, the
gradient that of a replacement, and the sparse code a matrix that is filled in by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.models import Defence, Draw

Replacement = Callable[[Defence, Tensor, Draw, int], Tensor]


def pgd(
    ren: Defence,
    images: Tensor,
    labels: Tensor,
    draw: Draw,
    replacement: Replacement,
    *,
    eps: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """linf, from the images, on the cross-entropy of the mean probabilities over ``draw`` and classifiers."""
    attacked = images.clone()
    for _ in range(steps):
        gradient = torch.zeros_like(images)
        purified = [
            ren.purify(attacked, draw[torch.full((len(images),), row)]).detach().requires_grad_()
            for row in range(len(draw.purifier))
        ]
        mean = torch.cat([ren.classifier.all_logits(seen).softmax(-1) for seen in purified]).mean(0)
        loss = -mean[torch.arange(len(labels)), labels].log().sum()
        for row, of_purified in enumerate(torch.autograd.grad(loss, purified)):
            leaf = attacked.clone().requires_grad_()
            gradient += torch.autograd.grad(replacement(ren, leaf, draw, row), leaf, of_purified)[0]
        attacked = attacked + step_size * gradient.sign()
        attacked = torch.minimum(torch.maximum(attacked, images - eps), images + eps).clamp(0, 1)
    return attacked


def the_image_itself(ren: Defence, images: Tensor, draw: Draw, row: int) -> Tensor:
    """As if the purifier did nothing."""
    return 1 * images


def linear_code(ren: Defence, images: Tensor, draw: Draw, row: int) -> Tensor:
    """As if the sparse code were neither shrunk nor clamped: two steps of gradient descent on it."""
    purifier = ren.purifier
    synthesis = synthesis_matrix(purifier.unit_atoms(), images.shape[-1])  # (3 H W, A N)
    kept = purifier.subset[draw.purifier[row]] * draw.random_input[row]
    positions = synthesis.shape[1] // len(kept)
    synthesis = synthesis * kept.repeat_interleave(positions)  # what the draw leaves out codes nothing
    mean = images.mean(dim=(2, 3), keepdim=True)
    target = (images - mean).flatten(1)
    code = purifier.step_size() * target @ synthesis
    code = code + purifier.step_size() * (target - code @ synthesis.T) @ synthesis
    decoded = code @ synthesis.T
    contrast = (target.pow(2).mean(1) + 1e-7).sqrt() / (decoded.pow(2).mean(1) + 1e-7).sqrt()
    return mean + (decoded * contrast.clamp(max=4)[:, None]).view_as(images)


def synthesis_matrix(atoms: Tensor, side: int) -> Tensor:
    """Each column an atom of 4 x 4 pixels at one place of a stride of 2 and a margin of 1, (3 H W, A N)."""
    columns = []
    for atom in atoms:
        for top in range(-1, side - 2, 2):
            for left in range(-1, side - 2, 2):
                canvas = torch.zeros(3, side + 4, side + 4)
                canvas[:, top + 2 : top + 6, left + 2 : left + 6] = atom
                columns.append(canvas[:, 2:-2, 2:-2].flatten())
    return torch.stack(columns, dim=1)
