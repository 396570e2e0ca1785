"""Make the clips of ``make demo``: a photograph panned and zoomed, clean, blind- and adaptively attacked.

    python samples/make_attacked.py [--bundle DIR] [--out samples/clips] [--eps 8]

The attacks change the pixels of the clip's 128x128 frames by at most ``--eps`` of 255 levels, before the
resize:

* **blind**: PGD on the classifiers alone, mean of the members' probabilities; the attacker does not know of
  the purifier;
* **adaptive**: PGD with the full gradient through purifier and classifier, averaged exactly over the bank
  (every purifier with every classifier) and, by a fresh sample at every step, over the random masks.

Frames are written as lossless FFV1 video, so that the perturbation survives.  Needs the [export] extra and
scikit-image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

from sdk import Bundle, default_bundle
from trainer.models import Defence, Draw
from trainer.models.twin import read_twin

SIDE = 128  # of a frame, in pixels
FPS = 8
STEPS = 40


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="The bundle to attack; the default one if not given."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "clips", show_default=True
)
@click.option(
    "--eps", type=click.FloatRange(1, 64), default=8, show_default=True, help="Largest change, of 255 levels."
)
@click.option("--frames", "n_frames", type=click.IntRange(1), default=24, show_default=True)
def main(bundle: Path | None, out: Path, eps: float, n_frames: int) -> None:
    """Write cat-clean.avi, cat-blind.avi and cat-adaptive.avi."""
    opened = Bundle.open(bundle or default_bundle())
    defence = read_twin(opened)
    size = opened.manifest.image
    if SIDE % size.height or size.height != size.width:
        raise click.ClickException(
            f"the clip's {SIDE}x{SIDE} frames must be a multiple of the bundle's image size"
        )
    shrink = SIDE // size.height
    label = opened.labels.index("cat")
    frames = torch.from_numpy(pan_and_zoom(skimage.data.cat(), n_frames)).permute(0, 3, 1, 2).float() / 255
    generator = torch.Generator().manual_seed(0)

    def blind(images: Tensor) -> Tensor:
        return defence.classifier.all_logits(images).softmax(-1).mean(0)

    def adaptive(images: Tensor) -> Tensor:
        return mean_over_bank(defence, images, generator)

    out.mkdir(parents=True, exist_ok=True)
    write(out / "cat-clean.avi", frames)
    for name, probabilities in (("blind", blind), ("adaptive", adaptive)):
        attacked = attack(probabilities, frames, label, eps=eps / 255, shrink=shrink)
        write(out / f"cat-{name}.avi", attacked)


def pan_and_zoom(photo: np.ndarray, count: int) -> np.ndarray:
    """``count`` square views of ``photo``, (count, SIDE, SIDE, 3): from the whole height in to the face."""
    height, width = photo.shape[:2]
    views = []
    for t in np.linspace(0, 1, count):
        side = height * (1 - 0.35 * t)
        left = (width - side) * (0.15 + 0.3 * t)
        top = (height - side) * 0.2
        window = photo[int(top) : int(top + side), int(left) : int(left + side)]
        views.append(cv2.resize(window, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return np.stack(views)


def mean_over_bank(defence: Defence, images: Tensor, generator: torch.Generator) -> Tensor:
    """Mean probabilities over all K x J pairs, each under masks of its own, (B, n_classes)."""
    total = torch.zeros(())
    for purifier in range(defence.n_purifiers):
        for classifier in range(defence.n_classifiers):
            masks = defence.draw(len(images), generator).random_input
            pair = (torch.full((len(images),), index) for index in (purifier, classifier))
            total = total + defence(images, Draw(*pair, masks)).softmax(-1)
    return total / (defence.n_purifiers * defence.n_classifiers)


def attack(
    probabilities: Callable[[Tensor], Tensor], frames: Tensor, label: int, *, eps: float, shrink: int
) -> Tensor:
    """PGD on the frames, through the area resize by ``shrink``, against the label; in whole levels of 255."""
    truth = torch.full((len(frames),), label)
    attacked = frames.clone()
    for _ in range(STEPS):
        leaf = attacked.detach().requires_grad_()
        loss = F.nll_loss(probabilities(F.avg_pool2d(leaf, shrink)).log(), truth, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        attacked = frames + (attacked + eps / 8 * gradient.sign() - frames).clamp(-eps, eps)
        attacked = attacked.clamp(0, 1)
    levels = (eps * 255) // 1 / 255  # rounding may not carry a pixel out of the ball
    return ((attacked * 255).round() / 255).clamp(frames - levels, frames + levels)


def write(path: Path, frames: Tensor) -> None:
    """Frames (N, 3, H, W) RGB in [0, 1] as lossless video, read back to prove it."""
    pictures = [f[:, :, ::-1].copy() for f in (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), FPS, (SIDE, SIDE))
    for picture in pictures:
        video.write(picture)
    video.release()
    capture = cv2.VideoCapture(str(path))
    for picture in pictures:
        if not np.array_equal(capture.read()[1], picture):
            raise click.ClickException(f"{path}: this OpenCV doesn't write FFV1 without loss")
    capture.release()
    click.echo(f"wrote {path}: {len(pictures)} frames, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
