"""Train an ordinary classifier of German traffic signs, of the kind that people bring, and write it as ONNX.

    python samples/train_sign_classifier.py --data DIR [--out out/sign-classifier.onnx] [--epochs 20]

A plain convolutional network of 26 MMAC, trained on clean pictures alone, so attacks find it easy. DIR holds
GTSRB as ``edge-train`` reads it: ``train/NN/*.jpg`` and ``test/NN/*.jpg``. The names of its classes are
written beside the file. Needs the ``[train]`` and ``[export]`` extras.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdk import EdgePurifyError
from trainer.data import Images, keyed_generator, read_gtsrb, split_validation

BATCH = 128
VALIDATION = 2000  # in whole tracks: pictures of one real sign are never on both sides
MEAN, STD = 0.5, 0.25  # of every channel; what the file expects, so edge-protect is told
LEARNING_RATE = 4e-3


def network(n_classes: int) -> nn.Sequential:
    """Six convolutions, (B, 3, 32, 32) normalized to logits (B, n_classes)."""

    def convolution(width_in: int, width_out: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *convolution(3, 32, 1),
        *convolution(32, 64, 2),
        *convolution(64, 64, 1),
        *convolution(64, 96, 2),
        *convolution(96, 96, 1),
        *convolution(96, 128, 2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128 * 4 * 4, n_classes),
    )


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the pictures.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/sign-classifier.onnx"))
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(data: Path, out: Path, epochs: int, seed: int) -> None:
    """Train, measure once on the test pictures, export."""
    torch.manual_seed(seed)
    try:
        training, validation = split_validation(read_gtsrb(data, "train"), VALIDATION)
        test = read_gtsrb(data, "test")
    except EdgePurifyError as error:
        raise click.ClickException(str(error)) from None
    model = network(len(training.labels)).to(memory_format=torch.channels_last)
    train(model, training, validation, epochs, seed)
    click.echo(f"test accuracy: {accuracy(model, test):.2%} of {len(test)} pictures")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_onnx(model, out)
    labels = out.with_suffix(".txt")
    labels.write_text("\n".join(training.labels) + "\n", encoding="utf-8")
    click.echo(f"wrote {out} and {labels}; its conventions: --mean {_three(MEAN)} --std {_three(STD)}")


def train(model: nn.Module, training: Images, validation: Images, epochs: int, seed: int) -> None:
    """By AdamW on a one-cycle schedule."""
    steps = epochs * (len(training) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        begun = time.perf_counter()
        model.train()
        order = torch.randperm(len(training), generator=keyed_generator(seed, "order", epoch))
        for position in range(len(training) // BATCH):
            batch = training[order[position * BATCH : (position + 1) * BATCH]]
            generator = keyed_generator(seed, epoch, position)
            images = varied(batch.pixels.float() / 255, generator)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(normalized(images).to(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), batch.targets, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - begun
        click.echo(
            f"epoch {epoch + 1}/{epochs}: validation {accuracy(model, validation):.2%}, {seconds:.0f} s"
        )


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turned, scaled, shifted, lightened and darkened a little: 30 pictures of a real sign are much alike."""
    count = len(images)
    turn, zoom, right, down, light, contrast = (
        2 * torch.rand(6, count, generator=generator) - 1  # in [-1, 1)
    )
    angle, scale = 0.2 * turn, 1 + 0.15 * zoom
    rows = [
        torch.stack([scale * angle.cos(), -scale * angle.sin(), 0.15 * right], dim=1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), 0.15 * down], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    light, contrast = (value.view(-1, 1, 1, 1) for value in (light, contrast))
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (moved - mean) * 2 ** (0.7 * contrast) + 0.15 * light).clamp(0, 1)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images) -> float:
    """Share of ``images`` that the model is right on."""
    model.eval()
    right = sum(
        int((model(normalized(batch)).argmax(1) == labels).sum()) for batch, labels in images.batches(500)
    )
    return right / len(images)


def normalized(images: Tensor) -> Tensor:
    """What the network takes of images in [0, 1]."""
    return (images - MEAN) / STD


def write_onnx(model: nn.Module, out: Path) -> None:
    """As torch exports it: one input, one output, any batch."""
    model.eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        model, (torch.zeros(2, 3, 32, 32),), dynamo=True, dynamic_shapes=(batch,), verbose=False
    )
    program.save(out)


def _three(value: float) -> str:
    return ",".join([str(value)] * 3)


if __name__ == "__main__":
    main()
