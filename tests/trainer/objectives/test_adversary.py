"""Training's own attacks against gradients worked out by hand."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.objectives.attacks import gradient_of, n_fgsm, pgd

EPS = 8 / 255


def linear_problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 3 * 5 * 5, generator=generator)
    images = torch.rand(6, 3, 5, 5, generator=generator)
    return weights, images, torch.arange(6) % 4, torch.rand(images.shape, generator=generator)


def cross_entropy_gradient(weights: Tensor, images: np.ndarray, labels: Tensor) -> np.ndarray:
    """d/dx of the cross-entropy of a linear model: W^T (softmax(W x) - onehot), from scratch."""
    flat = images.reshape(len(images), -1)
    logits = flat @ weights.numpy().T
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors = exponentials / exponentials.sum(axis=1, keepdims=True)
    errors[np.arange(len(labels)), labels.numpy()] -= 1
    return (errors @ weights.numpy()).reshape(images.shape)


def test_n_fgsm_follows_the_gradient_at_the_noisy_image() -> None:
    weights, images, labels, noise = linear_problem()
    found = n_fgsm(
        lambda x: F.cross_entropy(x.flatten(1) @ weights.T, labels, reduction="sum"),
        images,
        eps=EPS,
        noise=noise,
    )
    start = images.numpy() + (2 * noise.numpy() - 1) * 2 * EPS
    expected = start + EPS * np.sign(cross_entropy_gradient(weights, start, labels))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert np.abs(expected - images.numpy()).max() > EPS  # N-FGSM does not clip to the ball


def test_pgd_stays_in_the_ball_and_raises_the_loss() -> None:
    weights, images, labels, noise = linear_problem()

    def loss_of(x: Tensor) -> Tensor:
        return F.cross_entropy(x.flatten(1) @ weights.T, labels, reduction="sum")

    attacked = pgd(loss_of, images, eps=EPS, steps=5, step_size=EPS / 2, noise=noise)
    assert (attacked - images).abs().max() <= EPS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    # on a linear model the loss is largest in a corner of the ball
    corner = (images + EPS * gradient_of(loss_of, images).sign()).clamp(0, 1)
    assert loss_of(attacked) > loss_of(images)
    torch.testing.assert_close(loss_of(attacked), loss_of(corner), rtol=0.02, atol=0)


def test_an_attack_leaves_no_gradient_on_the_weights() -> None:
    model = torch.nn.Linear(3 * 5 * 5, 4)
    _, images, labels, noise = linear_problem()
    n_fgsm(lambda x: F.cross_entropy(model(x.flatten(1)), labels), images, eps=EPS, noise=noise)
    assert model.weight.grad is None
