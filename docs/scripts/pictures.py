"""Draw the documentation's pictures into docs/images/, from the demo's clips and the default bundle.

    python docs/scripts/pictures.py

* ``purified.png``: one frame clean, attacked and purified, and what each classifier says;
* ``annotated.jpg``: a frame of the annotated video that ``edge-purify --save`` writes;
* ``ladder.png``: the default bundle's accuracy under each attack, with intervals;
* ``reports/``: the plots of every report in docs/reports/.

The draws are seeded, so that the same bundle gives the same pictures.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np

from sdk import AnnotatedVideo, Purifier, Result, Undefended, open_source, run
from sdk.arrays import Pixels

sys.path.insert(0, str(Path(__file__).parent))
import figures
import reports

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT / "samples" / "clips"
IMAGES = ROOT / "docs" / "images"
ORDINARY = ROOT / "samples" / "bundles" / "ren-cifar10-edge-clean"
FRAME = 70  # of the 120 of each clip
SEED = 1
GREEN, RED, GREY = "#2e7d32", "#c23b22", "#8a8a8a"

Verdict = Undefended | Result


def main() -> None:
    """Draw all of them."""
    mpl.use("Agg")
    IMAGES.mkdir(exist_ok=True)
    with Purifier.load(seed=SEED) as purifier:
        purified(purifier, IMAGES / "purified.png")
        annotated(purifier, IMAGES / "annotated.jpg")
    ladder(IMAGES / "ladder.png")
    reports.draw_plots()


def purified(purifier: Purifier, path: Path) -> None:
    """The frame clean, its perturbation, attacked, and purified, each over what it is called."""
    from matplotlib import pyplot

    clean, attacked = (_frame(CLIPS / f"{name}.avi") for name in ("clean", "blind"))
    truth = (CLIPS / "labels.txt").read_text().split()[FRAME]
    with Purifier.load(ORDINARY) as ordinary:
        before, after = ordinary.undefended(clean), ordinary.undefended(attacked)
    result = purifier(attacked)
    if result.purified is None:
        raise SystemExit(f"{path.name}: the frame was skipped: {result.error}")
    change = 127 + 8 * (attacked.astype(int) - clean)
    panels: list[tuple[str, Pixels, Verdict | None]] = [
        ("clean", clean, before),
        ("the attack, 8 × stronger", np.clip(change, 0, 255).astype(np.uint8), None),
        ("attacked, ℓ∞ 8/255", attacked, after),
        ("attacked, then purified", result.purified, result),
    ]
    figure, cells = pyplot.subplots(1, len(panels), figsize=(10, 3.1))
    for cell, (title, picture, verdict) in zip(cells, panels, strict=True):
        cell.imshow(picture[:, :, ::-1], interpolation="nearest")
        cell.set_title(title, fontsize=11)
        cell.set_xticks([])
        cell.set_yticks([])
        if verdict is not None:
            color = GREEN if verdict.label == truth else RED
            way = "product" if verdict is result else "ordinary"
            cell.set_xlabel(f"{way}: {verdict.label} {verdict.score:.2f}", fontsize=12, color=color)
    figure.tight_layout()
    _save(figure, path)


def annotated(purifier: Purifier, path: Path) -> None:
    """The frame as the annotated video shows it."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "annotated.avi"
        run(purifier, open_source(CLIPS / "clean.avi"), [AnnotatedVideo(video, fps=8)])
        cv2.imwrite(str(path), _frame(video), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"wrote {path.relative_to(ROOT)}")


def ladder(path: Path) -> None:
    """Bars of expected accuracy, the figure to quote first, with their intervals."""
    from matplotlib import pyplot

    rungs = figures.default_ladder()
    shares = [100 * rung["share"] for rung in rungs.values()]
    below = [100 * (rung["share"] - rung["low"]) for rung in rungs.values()]
    above = [100 * (rung["high"] - rung["share"]) for rung in rungs.values()]
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    colors = [RED if name == "per-image worst" else GREY for name in rungs]
    axes.barh(range(len(rungs)), shares, xerr=[below, above], color=colors, capsize=3)
    axes.set_yticks(range(len(rungs)), list(rungs))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("expected accuracy over fresh draws, %, with 95 % interval; ℓ∞ 8/255")
    figure.tight_layout()
    _save(figure, path)


def _frame(video: Path) -> Pixels:
    with open_source(video) as frames:
        for frame in frames:
            if frame.index == FRAME:
                return frame.image
    raise SystemExit(f"{video}: expected more than {FRAME} frames")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=100, metadata={"Software": None})
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
