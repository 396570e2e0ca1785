"""REN's random encoding denoiser: sparse coding with a bank of random sub-encoders.

A reconstruction from the abstract of 'Adversarial purification using random encoding networks' (Applied Soft
Computing 183, 113604, 2025), which names the two parts, adversarial sparse coding inside and a dynamic random
mechanism outside, and nothing of their architecture. What stands here:

* One convolutional dictionary D of unit-norm atoms, initialized as two orthonormal bases of a patch.
* A sub-encoder i is a **sub-dictionary**: a fixed random subset S_i of the atoms with thresholds of its own.
  (With free encoder weights and a shared decoder the iteration is no longer ISTA, and diverges.)
* The code z minimizes 1/2 ||x - Dz||^2 + ||theta_i * z||_1 over codes on S_i less the atoms that the draw's
  random mask removes, by T unrolled ISTA steps:
  z <- m * shrink(z - eta D^T(Dz - x), eta theta_i),  eta = 0.9 / lambda_max.
* The purified image is Dz, with the image's mean added back and rescaled to the image's contrast.

Convolutional sparse coding layers: SDNet (arXiv 2210.12945).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.image_size import ImageSize, height_and_width
from trainer.models.purifier import PurifierBank, RandomSubset

STEP_SHARE = 0.9  # of 1 / lambda_max, so that the step stays safe between two power iterations


class SparseEncodingPurifier(PurifierBank):
    """A bank of K sparse-coding purifiers on one dictionary.

    Args:
        n_purifiers: K, the number of sub-encoders.
        atoms: number of atoms in the dictionary, A.
        atoms_per_encoder: size of every subset S_i.
        atoms_kept: number of atoms that a draw's random mask leaves in place; all of them where it is None.
        patch: side of an atom in pixels; the stride is half of it.
        iterations: T, the ISTA steps.
        threshold: initial threshold of every atom, in units of the code; 0 leaves the thresholds and the
            shrinkage out, and the code linear in the image.
        image_size: of the images in pixels, for the power iteration.
        generator: draws the subsets and the dictionary.
    """

    threshold: nn.Parameter | None
    subset: Tensor
    probe: Tensor
    lambda_max: Tensor

    def __init__(
        self,
        *,
        n_purifiers: int = 4,
        atoms: int = 96,
        atoms_per_encoder: int = 80,
        atoms_kept: int | None = None,
        patch: int = 4,
        iterations: int = 2,
        threshold: float = 0.01,
        image_size: ImageSize = 32,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.random_input = RandomSubset("atom_mask", size=atoms, take=atoms_kept or atoms, encoding="mask")
        self.iterations = iterations
        self.stride = patch // 2
        self.padding = patch // 4
        self.dictionary = nn.Parameter(_orthonormal_bases(atoms, patch, generator))  # (A, 3, P, P)
        thresholds = nn.Parameter(torch.full((n_purifiers, atoms), threshold)) if threshold else None
        self.register_parameter("threshold", thresholds)  # (K, A)
        self.register_buffer("subset", _subsets(n_purifiers, atoms, atoms_per_encoder, generator))  # (K, A)
        padded = (side + -side % self.stride for side in height_and_width(image_size))
        probe = torch.randn(1, 3, *padded, generator=generator)
        self.register_buffer("probe", probe / probe.norm())
        self.register_buffer("lambda_max", torch.ones(()))
        self.power_iteration(50)

    @property
    def n_purifiers(self) -> int:
        return self.subset.shape[0]

    @property
    def n_atoms(self) -> int:
        return self.subset.shape[1]

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        """Purify.

        Args:
            images: (B, 3, H, W) in [0, 1].
            purifier: (B,) int64, the sub-encoder drawn for each image.
            random_input: (B, A), the atom mask: 1 where an atom may be used.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        return self.encode_and_decode(images, purifier, random_input)[1]

    def encode_and_decode(self, images: Tensor, encoder: Tensor, atom_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The codes, (B, A, H / stride, W / stride), and the purified images, (B, 3, H, W)."""
        active = (self.subset[encoder] * atom_mask)[:, :, None, None]  # (B, A, 1, 1)
        threshold = None
        if self.threshold is not None:
            threshold = self.threshold[encoder].relu()[:, :, None, None]  # (B, A, 1, 1)
        return sparse_purify(
            images,
            self.unit_atoms(),
            active,
            threshold,
            self.step_size(),
            self.iterations,
            self.stride,
            self.padding,
        )

    def unit_atoms(self) -> Tensor:
        """D with every atom scaled to norm 1, (A, 3, P, P)."""
        return F.normalize(self.dictionary.flatten(1)).view_as(self.dictionary)

    def step_size(self) -> Tensor:
        """eta, a scalar tensor."""
        return STEP_SHARE / self.lambda_max

    def single(self, index: int) -> SingleSparsePurifier:
        """Sub-encoder ``index`` as it is exported."""
        return SingleSparsePurifier(self, index)

    def after_update(self, steps: int = 1) -> None:
        """The step size follows the dictionary."""
        self.power_iteration(steps)

    @torch.no_grad()
    def power_iteration(self, steps: int = 1) -> None:
        """Track lambda_max(D^T D), the Lipschitz constant of the data term; call after each change of D."""
        atoms = self.unit_atoms().float()
        for _ in range(steps):
            code = F.conv2d(self.probe, atoms, stride=self.stride, padding=self.padding)
            image = F.conv_transpose2d(code, atoms, stride=self.stride, padding=self.padding)
            self.lambda_max.copy_(image.norm())
            self.probe.copy_(image / image.norm())


class SingleSparsePurifier(nn.Module):
    """Sub-encoder ``index`` alone, as it is exported: (image, atom_mask) -> purified image.

    The subset, the thresholds and the step are folded into the weights of two convolutions.
    """

    atoms: Tensor
    active: Tensor
    threshold: Tensor | None
    step: Tensor

    def __init__(self, bank: SparseEncodingPurifier, index: int) -> None:
        super().__init__()
        self.iterations, self.stride, self.padding = bank.iterations, bank.stride, bank.padding
        self.register_buffer("atoms", bank.unit_atoms().detach().float())
        self.register_buffer("active", bank.subset[index].detach()[None, :, None, None])
        threshold = None
        if bank.threshold is not None:
            threshold = bank.threshold[index].detach().relu()[None, :, None, None]
        self.register_buffer("threshold", threshold)
        self.register_buffer("step", bank.step_size().detach())

    def forward(self, image: Tensor, atom_mask: Tensor) -> Tensor:
        active = self.active * atom_mask[:, :, None, None]
        _, purified = sparse_purify(
            image, self.atoms, active, self.threshold, self.step, self.iterations, self.stride, self.padding
        )
        return purified


def sparse_purify(
    images: Tensor,
    atoms: Tensor,
    active: Tensor,
    threshold: Tensor | None,
    step: Tensor,
    iterations: int,
    stride: int,
    padding: int,
) -> tuple[Tensor, Tensor]:
    """Unrolled ISTA on ``atoms`` and the image it decodes to; see the module's docstring.

    ``active`` and ``threshold`` are (B or 1, A, 1, 1); without a threshold nothing is shrunk. The first step
    starts from z = 0 and so needs no synthesis.
    """

    def advance(code: Tensor) -> Tensor:
        mask = active.to(code.dtype)  # under autocast the code is in half precision: keep it there
        return mask * code if threshold is None else shrink(mask * code, (step * threshold).to(code.dtype))

    height, width = images.shape[2:]
    images = pad_to_multiple(images, stride)
    mean = images.mean(dim=(2, 3), keepdim=True)
    target = images - mean  # (B, 3, H, W)
    code = advance(step * F.conv2d(target, atoms, stride=stride, padding=padding))
    for _ in range(iterations - 1):
        residual = target - F.conv_transpose2d(code, atoms, stride=stride, padding=padding)
        code = advance(code + step * F.conv2d(residual, atoms, stride=stride, padding=padding))
    decoded = F.conv_transpose2d(code, atoms, stride=stride, padding=padding)
    purified = (mean + decoded * contrast_ratio(target, decoded)).clamp(0, 1)
    return code, purified if purified.shape[2:] == (height, width) else purified[:, :, :height, :width]


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """``images`` with their last row and column repeated until both sides are multiples."""
    for dim in (2, 3):
        missing = -images.shape[dim] % multiple
        if missing:
            last = images.narrow(dim, images.shape[dim] - 1, 1)
            images = torch.cat([images, *[last] * missing], dim)
    return images


def shrink(code: Tensor, threshold: Tensor) -> Tensor:
    """Signed soft threshold: sign(code) * max(|code| - threshold, 0)."""
    return code - code.clamp(-threshold, threshold)


def contrast_ratio(target: Tensor, decoded: Tensor) -> Tensor:
    """RMS of ``target`` over RMS of ``decoded``, (B, 1, 1, 1); at most 4, so that a blank stays blank."""
    rms_target = target.pow(2).mean(dim=(1, 2, 3), keepdim=True).add(1e-7).sqrt()
    rms_decoded = decoded.pow(2).mean(dim=(1, 2, 3), keepdim=True).add(1e-7).sqrt()
    return (rms_target / rms_decoded).clamp(max=4.0)


def _orthonormal_bases(atoms: int, patch: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal bases of patches, stacked; a tight frame if ``atoms`` is a multiple of 3 P^2."""
    dim = 3 * patch * patch
    bases = [
        torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0].T for _ in range(-(-atoms // dim))
    ]
    return torch.cat(bases)[:atoms].reshape(atoms, 3, patch, patch).contiguous()


def _subsets(count: int, atoms: int, size: int, generator: torch.Generator) -> Tensor:
    """``count`` random 0/1 vectors of length ``atoms`` with ``size`` ones each."""
    ranks = torch.stack([torch.randperm(atoms, generator=generator) for _ in range(count)])
    return (ranks < size).float()
