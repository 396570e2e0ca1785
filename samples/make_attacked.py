"""Make the frames of ``make demo``: views of four photographs, clean, and attacked in two ways.

    python samples/make_attacked.py [--ordinary DIR] [--bundle DIR] [--out samples/clips] [--eps 8]

The views are random (by a seed) and of those the first ones that the ordinary classifier and the product both
classify correctly (the product in the mean of its draws), so that only the effect of the attack is counted.
The attacks change the pixels of the 64x64 frames by at most ``--eps`` of 255 levels, before the resize:

* **blind**: PGD on the ordinary classifier alone. The attacker knows the classifier that people usually
  deploy, and nothing of the defence;
* **adaptive**: PGD with the full gradient through purifier and classifier of the product, averaged exactly
  over the bank (every purifier with every classifier) and, by a fresh sample at every step, over the masks.

Frames are written as lossless FFV1 video, so that the perturbation survives. Needs the [export] extra.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdk import Bundle
from sdk.bundle import default_bundle
from trainer.models import Defence, Draw
from trainer.models.twin import read_twin

HERE = Path(__file__).parent
ORDINARY = HERE / "bundles" / "ren-cifar10-edge-clean"
PHOTOS = {"horse": "horse", "moose": "deer", "kingfisher": "bird", "owl": "bird"}  # photograph: label
SIDE = 64  # of a frame, in pixels
FPS = 8
STEPS = 40
BATCH = 20  # frames attacked at a time
MAX_TRIES = 2000  # views of one photograph
MIN_SHARE = 0.4  # of the photograph's shorter side that a view shows

Probabilities = Callable[[Tensor], Tensor]  #: frames (N, 3, SIDE, SIDE) -> (N, n_classes)


@click.command()
@click.option("--ordinary", type=click.Path(path_type=Path), default=ORDINARY, show_default=True,
              help="Bundle whose classifiers, without purifier, are the ordinary one.")  # fmt: skip
@click.option("--bundle", type=click.Path(path_type=Path), help="The product.  [default: the default bundle]")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "clips", show_default=True)
@click.option("--eps", type=click.FloatRange(1, 64), default=8, show_default=True, help="Of 255 levels.")
@click.option("--views", "n_views", type=click.IntRange(1), default=30, show_default=True,
              help="Of each photograph.")  # fmt: skip
def main(ordinary: Path, bundle: Path | None, out: Path, eps: float, n_views: int) -> None:
    """Write clean.avi, blind.avi, adaptive.avi, and labels.txt with the true label of each frame."""
    opened = Bundle.open(bundle or default_bundle())
    defence, undefended = read_twin(opened), read_twin(Bundle.open(ordinary))
    generator = torch.Generator().manual_seed(0)
    shrink = SIDE // opened.manifest.image.height

    def ordinary_classifier(frames: Tensor) -> Tensor:
        return undefended.classifier.all_logits(F.avg_pool2d(frames, shrink)).softmax(-1).mean(0)

    def product(frames: Tensor) -> Tensor:
        return mean_over_bank(defence, F.avg_pool2d(frames, shrink), generator)

    frames, labels = choose_views(opened.labels, (ordinary_classifier, product), n_views)
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.txt").write_text("".join(f"{opened.labels[label]}\n" for label in labels))
    write(out / "clean.avi", frames)
    for name, probabilities in (("blind", ordinary_classifier), ("adaptive", product)):
        parts = zip(frames.split(BATCH), labels.split(BATCH), strict=True)
        write(out / f"{name}.avi", torch.cat([attack(probabilities, *part, eps=eps / 255) for part in parts]))


def choose_views(
    names: tuple[str, ...], judges: tuple[Probabilities, ...], n_views: int
) -> tuple[Tensor, Tensor]:
    """For each photograph the first ``n_views`` random views that every judge classifies correctly.

    Returns:
        Frames (N, 3, SIDE, SIDE) in [0, 1] and their labels (N,).
    """
    random = np.random.default_rng(0)
    frames: list[Tensor] = []
    labels: list[int] = []
    for photo, name in PHOTOS.items():
        picture = cv2.imread(str(HERE / "photos" / f"{photo}.jpg"))
        n_found = n_tried = 0
        while n_found < n_views:
            view = random_view(picture, random)
            if all(int(judge(view[None]).argmax()) == names.index(name) for judge in judges):
                frames.append(view)
                labels.append(names.index(name))
                n_found += 1
            n_tried += 1
            if n_tried == MAX_TRIES:
                raise click.ClickException(f"{photo}: {n_found} of {MAX_TRIES} views are taken for {name}")
        click.echo(f"{photo}: {n_views} of {n_tried} views")
    return torch.stack(frames), torch.tensor(labels)


def random_view(picture: np.ndarray, random: np.random.Generator) -> Tensor:
    """A random square part of ``picture`` (H, W, 3) BGR, as (3, SIDE, SIDE) RGB in [0, 1]."""
    height, width = picture.shape[:2]
    side = int(min(height, width) * random.uniform(MIN_SHARE, 1))
    top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
    part = picture[top : top + side, left : left + side]
    view = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(view[:, :, ::-1].transpose(2, 0, 1).copy()).float() / 255


def mean_over_bank(defence: Defence, images: Tensor, generator: torch.Generator) -> Tensor:
    """Mean probabilities over all K x J pairs, each under masks of its own, (B, n_classes)."""
    total = torch.zeros(())
    for purifier in range(defence.n_purifiers):
        for classifier in range(defence.n_classifiers):
            masks = defence.draw(len(images), generator).random_input
            pair = (torch.full((len(images),), index) for index in (purifier, classifier))
            total = total + defence(images, Draw(*pair, masks)).softmax(-1)
    return total / (defence.n_purifiers * defence.n_classifiers)


def attack(probabilities: Probabilities, frames: Tensor, labels: Tensor, *, eps: float) -> Tensor:
    """PGD on the true class's margin, step from eps/4 down to eps/25, best iterate kept; in whole levels."""
    own = F.one_hot(labels, probabilities(frames[:1]).shape[1]).bool()
    attacked, best = frames.clone(), frames.clone()
    lowest = torch.full((len(frames),), torch.inf)
    for step in range(STEPS + 1):
        leaf = attacked.detach().requires_grad_()
        logarithms = probabilities(leaf).clamp_min(1e-12).log()
        margin = logarithms[own] - logarithms.masked_fill(own, -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        better = margin.detach() < lowest
        best[better], lowest[better] = attacked[better], margin.detach()[better]
        step_size = eps / 4 * (4 / 25) ** (step / STEPS)
        attacked = frames + (attacked - step_size * gradient.sign() - frames).clamp(-eps, eps)
        attacked = attacked.clamp(0, 1)
    levels = (eps * 255) // 1 / 255  # rounding may not carry a pixel out of the ball
    return ((best * 255).round() / 255).clamp(frames - levels, frames + levels)


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
