"""A record for the regression gate: what was done to which test images, and how often each was recognized.

It holds perturbations, in whole steps of 1/255, and the hash of the images that they belong to, but no image:
so it may ship with a bundle whose data set may not, and is judged wherever that data set lies.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from sdk.bundle.npz import read_npz
from sdk.bundle.regular import read_regular
from sdk.errors import EdgePurifyError, UsageError
from trainer.data import DataSet, Images
from trainer.robustness.attacks.ball import Ball, lengths
from trainer.robustness.defences.judges import Judge
from trainer.robustness.evaluation.statistics import chance
from trainer.robustness.evaluation.steps import OnProgress, Outcome

IMAGES = 256  # at most: about 1.5 MB with the rungs of the quick budget
DRAWS = 4  # of each image on each rung; the same ones whenever it is judged
BATCH = 64
MAX_BYTES = 1 << 30
SCHEMA = 1


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a record is about.

    Attributes:
        target: the defence that was attacked.
        pixels: sha256 of the clean images, uint8 (N, 3, H, W).
        norm, eps: of the attacks, in the images' units.
        seed: of the draws that judge.
        draws: per image and rung.
    """

    target: str
    pixels: str
    norm: str
    eps: float
    seed: int
    draws: int
    schema: int = SCHEMA


@dataclass(frozen=True, eq=False)
class Record:
    """N test images; a rung may have attacked the first few of them only.

    Attributes:
        header: what it is about.
        rows: (N,) int64, their places in the test set.
        labels: (N,) int64.
        perturbations: by rung, (n, 3, H, W) in steps of 1/255.
        chances: by precision and then by rung, (n,) float64: the share of draws that were right.
    """

    header: Header
    rows: Tensor
    labels: Tensor
    perturbations: Mapping[str, Tensor]
    chances: Mapping[str, Mapping[str, Tensor]]


def make(
    name: str,
    outcomes: Mapping[str, Outcome],
    images: Images,
    judges: Mapping[str, Judge],
    *,
    ball: Ball,
    seed: int,
) -> Record:
    """What ``outcomes`` did to the first of ``images``, the test set's first, as each of ``judges`` sees it.

    Args:
        name: of the defence.
        judges: by precision.
    """
    kept = images[:IMAGES]
    header = Header(name, _hash(kept.pixels), ball.norm, ball.eps, seed, DRAWS)
    steps = {
        rung: _whole_steps(outcome.adversarial[:IMAGES], kept.pixels, ball)
        for rung, outcome in outcomes.items()
    }
    bare = Record(header, torch.arange(len(kept)), kept.targets, steps, {})
    return replace(
        bare, chances={precision: chances(bare, judge, kept) for precision, judge in judges.items()}
    )


def chances(
    record: Record,
    judge: Judge,
    images: Images,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Tensor]:
    """By rung, the share of the record's draws under which ``judge`` is right about each image, (n,)."""
    found = {}
    for done, rung in enumerate(record.perturbations):
        on_progress("gate", done, len(record.perturbations))
        found[rung] = _chance(record, rung, judge, images)
    return found


def images_of(record: Record, dataset: DataSet, where: str) -> Images:
    """The record's images out of the test set ``dataset``.

    Raises:
        UsageError: the data set is another one; ``where`` says whose record it is.
    """
    hint = "name the folder with the same copy of the data set, or record again by --record"
    if int(record.rows.max()) >= len(dataset):
        raise UsageError(
            f"{where}: expected at least {int(record.rows.max()) + 1} test images, got {len(dataset)}",
            hint=hint,
        )
    images = dataset[record.rows]
    found = _hash(images.pixels)
    if found != record.header.pixels or not torch.equal(images.targets, record.labels):
        raise UsageError(
            f"{where}: its {len(record.rows)} images are others than those in --data: expected sha256 "
            f"{record.header.pixels[:12]}…, got {found[:12]}…",
            hint=hint,
        )
    return images


def attacked(record: Record, rung: str, images: Images) -> Tensor:
    """The first of the record's ``images`` as ``rung`` left them: float32 (n, 3, H, W) in [0, 1]."""
    steps = record.perturbations[rung]
    result: Tensor = (images.pixels[: len(steps)].short() + steps).clamp(0, 255).float() / 255
    return result


def to_bytes(record: Record) -> bytes:
    """As an ``.npz`` file."""
    arrays = {
        "header": np.array(msgspec.json.encode(record.header).decode()),
        "rows": record.rows.numpy(),
        "labels": record.labels.numpy(),
        **{f"perturbation/{rung}": steps.numpy() for rung, steps in record.perturbations.items()},
    }
    for precision, by_rung in record.chances.items():
        arrays |= {f"chance/{precision}/{rung}": shares.numpy() for rung, shares in by_rung.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def read(path: Path, content: bytes | None = None) -> Record:
    """What ``to_bytes`` made, in the file ``path`` or in ``content``, which was read from there.

    Raises:
        EdgePurifyError: the file can't be read, or isn't whole.
    """
    try:
        arrays = read_npz(read_regular(path, MAX_BYTES) if content is None else content)
        header = msgspec.json.decode(str(arrays["header"]), type=Header)
        parts = {key: torch.from_numpy(array) for key, array in arrays.items() if key != "header"}
        return _checked(header, parts)
    except OSError as error:
        raise EdgePurifyError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise EdgePurifyError(f"{path}: not a record of --record ({error})", hint="record again") from None


def _checked(header: Header, parts: dict[str, Tensor]) -> Record:
    """The record, all of whose arrays belong together; ValueError or KeyError where they do not."""
    rows, labels = parts.pop("rows"), parts.pop("labels")
    steps = {key.split("/")[1]: part for key, part in parts.items() if key.startswith("perturbation/")}
    shares: dict[str, dict[str, Tensor]] = {}
    for key in parts:
        if key.startswith("chance/"):
            _, precision, rung = key.split("/")
            shares.setdefault(precision, {})[rung] = parts[key]
    sizes = {rung: len(part) for rung, part in steps.items()}
    if header.schema != SCHEMA:
        raise ValueError(f"expected schema {SCHEMA}, got {header.schema}")
    if not steps or not len(rows) or len(rows) != len(labels) or max(sizes.values()) > len(rows):
        raise ValueError("its arrays are of different lengths")
    for precision, by_rung in shares.items():
        if {rung: len(part) for rung, part in by_rung.items()} != sizes:
            raise ValueError(f"the chances of {precision} don't belong to its perturbations")
    return Record(header, rows, labels, steps, shares)


def _chance(record: Record, rung: str, judge: Judge, images: Images) -> Tensor:
    pixels, header = attacked(record, rung, images), record.header
    answers = [
        judge.probabilities(part, draws=header.draws, key=(header.seed, "gate"), first=BATCH * place)
        for place, part in enumerate(torch.split(pixels, BATCH))
    ]
    return chance(torch.cat(answers, dim=1).argmax(-1), images.targets[: len(pixels)])


def _whole_steps(adversarial: Tensor, clean: Tensor, ball: Ball) -> Tensor:
    """The perturbation in steps of 1/255: to the nearest, and towards 0 where that would leave the ball."""
    steps = 255 * adversarial - clean[: len(adversarial)]
    nearest = steps.round()
    size = lengths(nearest) if ball.norm == "l2" else nearest.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    whole = torch.where(size <= 255 * ball.eps + 1e-3, nearest, steps.trunc())
    return whole.to(torch.int8 if whole.abs().max() < 128 else torch.int16)


def _hash(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
