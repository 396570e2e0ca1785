"""The demo's table and video: an ordinary classifier and the product, under no, blind and adaptive attack.

    python samples/compare.py [--bundle DIR] [--out out/compared.mp4]

Who attacks what, and which frames these are, is in ``samples/make_attacked.py``. Needs the runtime alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np

from sdk import EdgePurifyError, Purifier, open_source

HERE = Path(__file__).parent
CLIPS = HERE / "clips"
ORDINARY = HERE / "bundles" / "ren-cifar10-edge-clean"
# attack: the clip that the ordinary classifier is shown, and the one that the product is shown
ATTACKS = {"none": ("clean", "clean"), "blind": ("blind", "blind"), "adaptive": ("blind", "adaptive")}
MEANING = {
    "none": "views that both classify correctly, the product in the mean of its draws",
    "blind": "made for the ordinary classifier, by an attacker who knows nothing of the defence",
    "adaptive": "made for each by an attacker who knows all of it but the draws",
}
PANEL = 256  # side of a panel, in pixels
CAPTION = 64  # height of the text below it
GREEN, RED, WHITE = (90, 200, 90), (80, 80, 240), (240, 240, 240)


@dataclass(frozen=True)
class Verdict:
    """What the ordinary classifier and the product said of one view under one attack."""

    truth: str
    frame: np.ndarray  # what the product saw, (H, W, 3) BGR
    ordinary: str
    product: str


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="The default bundle if not given.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/compared.mp4"), show_default=True)
def main(bundle: Path | None, out: Path) -> None:
    """Count the right answers under each attack, and write a video of the views side by side."""
    truths = (CLIPS / "labels.txt").read_text().split()
    try:
        with Purifier.load(ORDINARY) as ordinary, Purifier.load(bundle) as product:
            verdicts = {attack: list(judge(attack, ordinary, product, truths)) for attack in ATTACKS}
            cost = clean_accuracy(ordinary), clean_accuracy(product)
    except EdgePurifyError as error:
        raise click.ClickException(str(error)) from None
    print_table(verdicts, cost)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_video(out, verdicts)
    click.echo(f"wrote {out}")


def judge(attack: str, ordinary: Purifier, product: Purifier, truths: list[str]) -> Iterator[Verdict]:
    """Both verdicts on every view."""
    first, second = (CLIPS / f"{clip}.avi" for clip in ATTACKS[attack])
    with open_source(first) as to_ordinary, open_source(second) as to_product:
        for truth, shown, frame in zip(truths, to_ordinary, to_product, strict=True):
            label = product(frame.image).label or "unsure"
            yield Verdict(truth, frame.image, ordinary.undefended(shown.image).label, label)


def clean_accuracy(purifier: Purifier) -> str:
    """Accuracy on unattacked test images, as the bundle's ladder on the most images has it."""
    ladders = [measured["ladder"]["clean"] for measured in purifier.bundle.manifest.measured]
    best = max(ladders, key=lambda clean: clean["images"], default=None)
    return "not measured" if best is None else f"{best['share']:.1%} of {best['images']:,}"


def print_table(verdicts: dict[str, list[Verdict]], cost: tuple[str, str]) -> None:
    """The cost first, then a row an attack: right answers with 95 % Wilson intervals."""
    click.echo(f"right without an attack, on test images: ordinary {cost[0]}, product {cost[1]}\n")
    click.echo(f"{'attack':<9} {'ordinary classifier':<28} {'product':<28}")
    for attack, judged in verdicts.items():
        n = len(judged)
        ordinary = sum(verdict.ordinary == verdict.truth for verdict in judged)
        product = sum(verdict.product == verdict.truth for verdict in judged)
        click.echo(f"{attack:<9} {count(ordinary, n):<28} {count(product, n):<28} {MEANING[attack]}")


def count(right: int, n: int) -> str:
    """``67 of 120 [47, 64 %]``: right answers and the Wilson interval of their share, 95 %."""
    z = 1.96
    share, half = right / n, z / (1 + z * z / n)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half *= (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return f"{right} of {n} [{100 * max(middle - half, 0):.0f}, {100 * min(middle + half, 1):.0f} %]"


def write_video(path: Path, verdicts: dict[str, list[Verdict]]) -> None:
    """One panel an attack: the view, and below it both verdicts, green where right."""
    video = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"mp4v"), 4, (PANEL * len(verdicts), PANEL + CAPTION)
    )
    for row in zip(*verdicts.values(), strict=True):
        video.write(np.hstack([panel(name, verdict) for name, verdict in zip(verdicts, row, strict=True)]))
    video.release()


def panel(attack: str, verdict: Verdict) -> np.ndarray:
    """(PANEL + CAPTION, PANEL, 3) BGR."""
    canvas = np.full((PANEL + CAPTION, PANEL, 3), 24, np.uint8)
    canvas[:PANEL] = cv2.resize(verdict.frame, (PANEL, PANEL), interpolation=cv2.INTER_NEAREST)
    lines = (
        (f"attack: {attack}", WHITE),
        (f"ordinary: {verdict.ordinary}", GREEN if verdict.ordinary == verdict.truth else RED),
        (f"product: {verdict.product}", GREEN if verdict.product == verdict.truth else RED),
    )
    for row, (text, color) in enumerate(lines):
        at = (8, PANEL + 18 + 20 * row)
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
    return canvas


if __name__ == "__main__":
    main()
