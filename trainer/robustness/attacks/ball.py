"""The set of perturbations that an attacker may choose from, and the refusal of inputs that make no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sdk.errors import UsageError

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Ball:
    """All perturbations whose norm over one image is at most ``eps``, in the images' units, where white is 1.

    Raises:
        UsageError: no such norm, or an eps that is not positive or was given on the 255 scale.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise UsageError(f"norm: expected {' or '.join(get_args(Norm))}, got {self.norm!r}")
        if not self.eps > 0:
            raise UsageError(f"eps: expected a positive number, got {self.eps}")
        if self.norm == "linf" and self.eps > 1:
            raise UsageError(
                f"eps: expected at most 1, images being in [0, 1], got {self.eps:g}",
                hint=f"for {self.eps:g} grey levels of 255 give {self.eps:g}/255",
            )

    def check_reach(self, height: int, width: int) -> None:
        """Refuse an eps that no image of this size is away from another.

        Raises:
            UsageError: an l2 eps that was given on the 255 scale; of linf, the ball itself refuses it.
        """
        farthest = math.sqrt(3 * height * width)
        if self.norm == "l2" and self.eps > farthest:
            raise UsageError(
                f"eps: expected at most {farthest:.4g}, no image of {height} x {width} being further from "
                f"another in l2, got {self.eps:g}",
                hint="128/255 is usual",
            )

    def project(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """The point of the ball around ``images``, and of [0, 1], that ``adversarial`` is moved to."""
        delta = adversarial - images
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / lengths(delta).clamp(min=1e-12)).clamp(max=1)
        return (images + delta).clamp(0, 1)

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random points: uniform in the box for linf; at a uniform distance in any direction for l2."""
        if self.norm == "linf":
            delta = (2 * torch.rand(images.shape, generator=generator) - 1) * self.eps
        else:
            delta = torch.randn(images.shape, generator=generator)
            distance = self.eps * torch.rand(len(images), 1, 1, 1, generator=generator)
            delta = delta * distance / lengths(delta).clamp(min=1e-12)
        return (images + delta).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The unit perturbation along which a linear loss with this gradient rises fastest."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / lengths(gradient).clamp(min=1e-12)


def lengths(images: Tensor) -> Tensor:
    """l2 norms, one per image, (B, 1, 1, 1)."""
    result: Tensor = images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return result


def check_images(images: Tensor, labels: Tensor, n_classes: int) -> None:
    """Refuse what an attack would silently misread.

    Raises:
        UsageError: images that are not float (B, 3, H, W) in [0, 1], or labels that don't fit them.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise UsageError(f"images: expected float (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        hint = "divide them by 255" if high > 1 else None
        raise UsageError(f"images: expected values in [0, 1], got {low:g} to {high:g}", hint=hint)
    if labels.shape != (len(images),):
        raise UsageError(
            f"labels: expected one for each of the {len(images)} images, got shape {tuple(labels.shape)}"
        )
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < n_classes):
        raise UsageError(
            f"labels: expected 0 to {n_classes - 1}, the classes of the model, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
