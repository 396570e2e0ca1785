"""The regression gate: stored adversarial images, judged again, must not be recognized less often than
before.

It is paired: the same images under the same draws, so a point of tolerance is much, though an interval of the
same images would span several.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdk.errors import EdgePurifyError, GateError, UsageError
from trainer.robustness.judges import Judge
from trainer.robustness.ladder import OnProgress, Outcome
from trainer.robustness.statistics import chance
from trainer.robustness.targets import Target

TOLERANCE = 0.01  # one point
BATCH = 64
META = "meta"  # draws and seed; every other array of the file belongs to a rung


def record(
    path: Path, target: Target, outcomes: dict[str, Outcome], labels: Tensor, *, draws: int, seed: int
) -> None:
    """Write every rung's images, rounded to bytes, and how often each is recognized, as an ``.npz`` file.

    Raises:
        UsageError: it can't be written.
    """
    arrays: dict[str, np.ndarray] = {META: np.array([draws, seed], np.int64)}
    for name, outcome in outcomes.items():
        pixels = (outcome.adversarial * 255).round().to(torch.uint8)
        rows = labels[: len(pixels)]
        arrays[f"{name}.images"] = pixels.numpy()
        arrays[f"{name}.labels"] = rows.numpy()
        arrays[f"{name}.chance"] = _chances(target.judge, pixels, rows, draws, seed).numpy()
    try:
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
    except OSError as error:
        raise UsageError(f"--record {path}: can't be written: {error.strerror}") from None


def hold(
    path: Path, target: Target, *, on_progress: OnProgress = lambda what, done, total: None
) -> dict[str, float]:
    """Judge what ``record`` wrote anew.

    Returns:
        By rung, the change in points: positive where more is recognized than before.

    Raises:
        GateError: some rung lost more than a point; the message names it.
        EdgePurifyError: the file can't be read, or doesn't fit the target.
    """
    arrays = _read(path, target)
    draws, seed = (int(value) for value in arrays[META])
    names = [name.removesuffix(".images") for name in arrays if name.endswith(".images")]
    changes = {}
    for done, name in enumerate(names):
        on_progress("gate", done, len(names))
        pixels, labels, before = (
            torch.from_numpy(arrays[f"{name}.{part}"]) for part in ("images", "labels", "chance")
        )
        changes[name] = 100 * float((_chances(target.judge, pixels, labels, draws, seed) - before).mean())
    lost = {name: change for name, change in changes.items() if change < -100 * TOLERANCE}
    if lost:
        listed = ", ".join(f"{name} {change:+.1f}" for name, change in lost.items())
        raise GateError(
            f"{target.name}: recognizes fewer of the images in {path} than when they were recorded, "
            f"in points: {listed}; expected at most {100 * TOLERANCE:.0f} lost"
        )
    return changes


def _chances(judge: Judge, pixels: Tensor, labels: Tensor, draws: int, seed: int) -> Tensor:
    answers = [
        judge.probabilities(part.float() / 255, draws=draws, key=(seed, "gate"), first=BATCH * place).argmax(
            -1
        )
        for place, part in enumerate(pixels.split(BATCH))
    ]
    return chance(torch.cat(answers, dim=1), labels)


def _read(path: Path, target: Target) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EdgePurifyError(f"--gate {path}: can't be read: {error}; make it by --record") from None
    shapes = {value.shape[1:] for name, value in arrays.items() if name.endswith(".images")}
    if META not in arrays or shapes != {(3, target.height, target.width)}:
        raise EdgePurifyError(
            f"--gate {path}: expected images of 3 x {target.height} x {target.width}, made by --record from "
            f"{target.name} or its like, got {sorted(shapes)}"
        )
    return arrays
