"""Golden outputs: a few images and full draws with what the twin answers, for a self-test without torch."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.gate import Deviation, max_abs
from sdk.backends.base import Backend
from sdk.bundle import Bundle
from sdk.errors import BundleError

RANDOM_INPUT = "input."  # heads the name of a random input's array in the file


@dataclass(frozen=True)
class Golden:
    """N draws on M images, as ``golden.npz`` holds them, one array an attribute.

    Attributes:
        images: (M, 3, H, W) uint8 RGB; an engine is fed ``images / 255`` in float32.
        image, purifier, classifier: (N,) int64, the image and the engines that each draw takes.
        random_inputs: by name, (N, ...): the values fed in each draw; in the file as ``input.NAME``.
        positions: (P,) int64, where the flattened purified image is compared; everywhere when it is small.
        purified: (N, P) float32, the purified image there.
        logits: (N, n_classes) float32, the classifier's answer to the purified image.
    """

    images: npt.NDArray[np.uint8]
    image: npt.NDArray[np.int64]
    purifier: npt.NDArray[np.int64]
    classifier: npt.NDArray[np.int64]
    random_inputs: dict[str, npt.NDArray[Any]]
    positions: npt.NDArray[np.int64]
    purified: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        arrays = {name: value for name, value in vars(self).items() if name != "random_inputs"}
        arrays |= {RANDOM_INPUT + name: value for name, value in self.random_inputs.items()}
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, bundle: Bundle) -> Golden:
        """Read the golden outputs of ``bundle``.

        Raises:
            BundleError: not an ``.npz`` file, an array is missing, or an engine is never drawn.
        """
        path = bundle.path(bundle.manifest.golden)
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            inputs = {name: arrays.pop(name) for name in [*arrays] if name.startswith(RANDOM_INPUT)}
            golden = cls(random_inputs={k.removeprefix(RANDOM_INPUT): v for k, v in inputs.items()}, **arrays)
        except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{path}: can't be read as golden outputs: {error}; export the bundle anew"
            ) from None
        _check_every_engine_drawn(path, golden.purifier, "purifiers", len(bundle.manifest.purifiers))
        _check_every_engine_drawn(path, golden.classifier, "classifiers", len(bundle.manifest.classifiers))
        return golden


def replay(bundle: Bundle, backend: Backend, golden: Golden) -> list[Deviation]:
    """Run every golden draw through the engines, purifier into classifier; purifiers come first."""
    purifiers, classifiers = bundle.manifest.purifiers, bundle.manifest.classifiers
    purified_errors: defaultdict[str, list[float]] = defaultdict(list)
    logits_errors: defaultdict[str, list[float]] = defaultdict(list)
    for n, (image, i, j) in enumerate(zip(golden.image, golden.purifier, golden.classifier, strict=True)):
        frame = golden.images[image][None].astype(np.float32) / 255
        inputs = {name: rows[n : n + 1] for name, rows in golden.random_inputs.items()}
        purified = backend.purify(i, frame, inputs)
        error = max_abs(purified.ravel()[golden.positions], golden.purified[n])
        purified_errors[purifiers[i].id].append(error)
        error = max_abs(backend.classify(j, purified)[0], golden.logits[n])
        logits_errors[classifiers[j].id].append(error)
    return [
        Deviation(engine, output, "golden outputs", float(np.max(errors)), len(errors))
        for output, by_engine in (("purified image", purified_errors), ("logits", logits_errors))
        for engine, errors in by_engine.items()
    ]


def _check_every_engine_drawn(path: Path, drawn: npt.NDArray[np.int64], role: str, count: int) -> None:
    if found := set(drawn.tolist()) ^ set(range(count)):
        raise BundleError(
            f"{path}: expected golden draws of all {count} {role} and no other, got it wrong for number "
            f"{', '.join(map(str, sorted(found)))}; export the bundle anew"
        )
