"""Several images through a bank on the CPU: all are purified before any is classified.

Purifier and classifier in turns push each other's weights out of the caches; on one core of a server, 16
images take about four fifths of the time this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from sdk.arrays import FloatImage
from sdk.backends.interface import Backend, Inference, checked
from sdk.draw import Draw
from sdk.errors import BackendError


def run_in_phases(
    backend: Backend, images: Sequence[FloatImage], draws: Sequence[Sequence[Draw]], *, want_purified: bool
) -> list[list[Inference] | BackendError]:
    """Each image under each of its draws: its inferences, or what its engines failed with.

    Args:
        images: each ``(1, 3, H, W)``.
        draws: of each image.
        want_purified: whether the first draw's purified image is kept.
    """
    jobs = [(row, vote) for row in range(len(images)) for vote in range(len(draws[row]))]
    failures: dict[int, BackendError] = {}
    purified: dict[tuple[int, int], FloatImage] = {}
    purify_s: dict[tuple[int, int], float] = {}
    for row, vote in sorted(jobs, key=lambda job: draws[job[0]][job[1]].purifier):
        if row in failures:
            continue
        draw, start = draws[row][vote], perf_counter()
        try:
            output = backend.purify(draw.purifier, images[row], draw.random_inputs)
            purified[row, vote] = checked(output, images[row].shape, draw.purifier_id).copy()
        except BackendError as failure:
            failures[row] = failure
        purify_s[row, vote] = perf_counter() - start
    found: dict[tuple[int, int], Inference] = {}
    for row, vote in sorted(jobs, key=lambda job: draws[job[0]][job[1]].classifier):
        if row in failures:
            continue
        draw, start = draws[row][vote], perf_counter()
        try:
            logits = backend.classify(draw.classifier, purified[row, vote]).copy()
        except BackendError as failure:
            failures[row] = failure
            continue
        kept = purified[row, vote] if want_purified and not vote else None
        found[row, vote] = Inference(logits, kept, purify_s[row, vote], perf_counter() - start)
    return [
        failures[row] if row in failures else [found[row, vote] for vote in range(len(draws[row]))]
        for row in range(len(images))
    ]
