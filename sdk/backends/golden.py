"""Golden outputs: a few images and full draws with what the twin answers, for a self-test without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from sdk.backends.interface import Backend, Float
from sdk.bundle.deviation import Deviation, deviation
from sdk.bundle.files import Bundle
from sdk.bundle.npz import read_npz
from sdk.draw import Draw
from sdk.errors import BundleError

MAX_DRAWS = 4096
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

    def save(self, path: Path | IO[bytes]) -> None:
        arrays = {name: value for name, value in vars(self).items() if name != "random_inputs"}
        arrays |= {RANDOM_INPUT + name: value for name, value in self.random_inputs.items()}
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, bundle: Bundle, backend: Backend | None = None) -> Golden:
        """Read the golden outputs of ``bundle``, where there are some those of the engines of ``backend``.

        Raises:
            BundleError: not an ``.npz`` file, an array is missing or doesn't fit the manifest, or an engine
                is never drawn.
        """
        file = bundle.manifest.golden
        if backend is not None:
            file = bundle.manifest.golden_of(backend.precision, backend.graphs)
        path, content = bundle.path(file), bundle.read(file)
        try:
            arrays = read_npz(content)
            inputs = {name: arrays.pop(name) for name in [*arrays] if name.startswith(RANDOM_INPUT)}
            golden = cls(random_inputs={k.removeprefix(RANDOM_INPUT): v for k, v in inputs.items()}, **arrays)
            _check_arrays(golden, bundle)
        except (ValueError, TypeError) as error:
            raise BundleError(
                f"{path}: can't be read as golden outputs: {error}", hint="export the bundle again"
            ) from None
        _check_every_engine_drawn(path, golden.purifier, "purifiers", len(bundle.manifest.purifiers))
        _check_every_engine_drawn(path, golden.classifier, "classifiers", len(bundle.manifest.classifiers))
        return golden


def replay(bundle: Bundle, backend: Backend, golden: Golden) -> list[Deviation]:
    """Run every golden draw as a frame runs it; how far each engine is off, purifiers first.

    Raises:
        BackendError: an engine failed.
    """
    purified_by: defaultdict[str, list[tuple[Float, Float]]] = defaultdict(list)
    logits_by: defaultdict[str, list[tuple[Float, Float]]] = defaultdict(list)
    for n, (draw, purified, logits) in enumerate(_outputs(bundle, backend, golden)):
        purified_by[draw.purifier_id].append((purified, golden.purified[n]))
        logits_by[draw.classifier_id].append((logits, golden.logits[n]))
    return [
        deviation(
            engine,
            output,
            "golden outputs",
            np.stack([got for got, _ in pairs]),
            np.stack([expected for _, expected in pairs]),
            backend.precision,
            relative=bundle.manifest.has_external_classifier,  # whose logits have a scale of their own
        )
        for output, by_engine in (("purified image", purified_by), ("logits", logits_by))
        for engine, pairs in by_engine.items()
    ]


def outputs_of(bundle: Bundle, backend: Backend, golden: Golden) -> Golden:
    """``golden`` with what the engines of ``backend`` answer, for a self-test of the same ones elsewhere."""
    _, purified, logits = zip(*_outputs(bundle, backend, golden), strict=True)
    return replace(golden, purified=np.stack(purified), logits=np.stack(logits))


def _outputs(bundle: Bundle, backend: Backend, golden: Golden) -> Iterator[tuple[Draw, Float, Float]]:
    """Each golden draw, run as a frame is: the purified image at the positions, and the logits."""
    for n, draw in enumerate(_draws(bundle, golden)):
        image = golden.images[golden.image[n]][None].astype(np.float32) / 255
        inference = backend.run(draw, image, want_purified=True)
        assert inference.purified is not None, "it was wanted"
        # indexing copies, and must: the backend may reuse its buffer
        yield draw, inference.purified.ravel()[golden.positions], inference.logits[0].copy()


def _draws(bundle: Bundle, golden: Golden) -> Iterator[Draw]:
    purifiers, classifiers = bundle.manifest.purifiers, bundle.manifest.classifiers
    for n, (i, j) in enumerate(zip(golden.purifier.tolist(), golden.classifier.tolist(), strict=True)):
        inputs = {name: rows[n : n + 1] for name, rows in golden.random_inputs.items()}
        yield Draw(i, purifiers[i].id, j, classifiers[j].id, inputs, seeded=True)


def _check_arrays(golden: Golden, bundle: Bundle) -> None:
    """Hold every array to the manifest and to the others; a ValueError names the one that is wrong."""
    image, n, places = bundle.manifest.image, len(golden.purifier), len(golden.positions)
    if not 1 <= n <= MAX_DRAWS:
        raise ValueError(f"expected 1 to {MAX_DRAWS} draws, got {n}")
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "images": ("uint8", (len(golden.images), 3, image.height, image.width)),
        **dict.fromkeys(("image", "purifier", "classifier"), ("int64", (n,))),
        "positions": ("int64", (places,)),
        "purified": ("float32", (n, places)),
        "logits": ("float32", (n, len(bundle.labels))),
    }
    arrays = {name: getattr(golden, name) for name in expected}
    for purifier in bundle.manifest.purifiers:
        for spec in purifier.random_inputs:
            expected[RANDOM_INPUT + spec.name] = (spec.dtype, (n, *spec.shape[1:]))
    arrays |= {RANDOM_INPUT + name: array for name, array in golden.random_inputs.items()}
    for name, (dtype, shape) in expected.items():
        array = arrays.get(name)
        if array is None or (array.dtype.name, array.shape) != (dtype, shape):
            got = "none" if array is None else f"{array.dtype.name} {list(array.shape)}"
            raise ValueError(f"array {name!r}: expected {dtype} {list(shape)}, got {got}")
    for name, size in (("image", len(golden.images)), ("positions", 3 * image.height * image.width)):
        if arrays[name].size and not 0 <= arrays[name].min() <= arrays[name].max() < size:
            raise ValueError(f"array {name!r}: expected values from 0 to {size - 1}")


def _check_every_engine_drawn(path: Path, drawn: npt.NDArray[np.int64], role: str, count: int) -> None:
    if found := set(drawn.tolist()) ^ set(range(count)):
        raise BundleError(
            f"{path}: expected golden draws of all {count} {role} and no other, got it wrong for number "
            f"{', '.join(map(str, sorted(found)))}",
            hint="export the bundle again",
        )
