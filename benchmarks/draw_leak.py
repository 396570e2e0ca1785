"""How well the draw can be told from a frame's latency.

    python benchmarks/draw_leak.py [--bundle DIR] [--frames 20000] [--backend NAME] [--precision NAME]

Who sees how long a frame takes, such as a client of a server or whoever reads ``/metrics``, learns something
of the engines that were drawn if these take different times. A classifier is trained on half of the frames'
latencies and asked about the other half: it says the engine that was drawn most often at latencies like the
one given, by 64 quantiles. Its share of right answers is compared with chance.

Where engines have the same shape, as in the bundles that ship, the bound is chance + 5 points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sdk import Purifier, UsageError
from sdk.bundle import Bundle, default_bundle
from sdk.choices import BACKENDS, PRECISIONS

BINS = 64  # quantiles of the latency
WARM_UP = 500
MARGIN = 0.05  # above chance
BLOCK = 200  # frames that go to one half together, so that the machine's drift is in both

Ints = npt.NDArray[np.int64]


def measure(
    bundle: Bundle, n_frames: int, *, backend: str = "onnxruntime", precision: str = "auto"
) -> tuple[dict[str, npt.NDArray[np.float64]], Ints, Ints]:
    """Latencies in ms by stage, and the indices of the engines drawn, of ``n_frames`` frames of noise."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (32, 240, 320, 3), np.uint8)
    stages: dict[str, list[float]] = {"total": [], "purify": [], "classify": []}
    purifiers, classifiers = [], []
    with Purifier.load(bundle, backend=backend, precision=precision) as purifier:
        for number in range(n_frames + WARM_UP):
            result = purifier(pictures[number % len(pictures)])
            if number < WARM_UP:
                continue
            for stage, values in stages.items():
                values.append(getattr(result.timings, f"{stage}_ms"))
            purifiers.append(result.draw.purifier)
            classifiers.append(result.draw.classifier)
    latencies = {stage: np.array(values) for stage, values in stages.items()}
    return latencies, np.array(purifiers, np.int64), np.array(classifiers, np.int64)


def accuracy(latencies_ms: npt.NDArray[np.float64], drawn: Ints, n_engines: int) -> float:
    """Share of ``drawn`` (N,) that a classifier of ``latencies_ms`` (N,) tells, on frames not seen before."""
    half = np.arange(len(drawn)) // BLOCK % 2 == 1
    right = 0
    for known, asked in ((half, ~half), (~half, half)):
        edges = np.quantile(latencies_ms[known], np.linspace(0, 1, BINS + 1)[1:-1])
        counts = np.zeros((BINS, n_engines))
        np.add.at(counts, (np.searchsorted(edges, latencies_ms[known]), drawn[known]), 1)
        told = counts.argmax(1)[np.searchsorted(edges, latencies_ms[asked])]
        right += int((told == drawn[asked]).sum())
    return right / len(drawn)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each stage and role; 1 if the frame's latency tells more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundle", help="folder of a bundle; by default the one in the package")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    given = parser.parse_args(arguments)
    if given.frames < 2 * BLOCK:
        parser.error(f"--frames: expected at least {2 * BLOCK}")
    try:
        bundle = Bundle.open(given.bundle or default_bundle())
    except UsageError as error:
        parser.error(str(error))
    latencies, purifiers, classifiers = measure(
        bundle, given.frames, backend=given.backend, precision=given.precision
    )
    leaks = False
    for role, drawn, engines in (
        ("purifier", purifiers, bundle.manifest.purifiers),
        ("classifier", classifiers, bundle.manifest.classifiers),
    ):
        if len(engines) < 2:
            continue
        for stage, values in latencies.items():
            told, chance = accuracy(values, drawn, len(engines)), np.bincount(drawn).max() / len(drawn)
            leaks = leaks or (stage == "total" and told > chance + MARGIN)
            means = " ".join(f"{np.median(values[drawn == n]):.3f}" for n in range(len(engines)))
            print(f"{role:10} by {stage:8} {told:.1%} told, chance {chance:.1%}   median ms: {means}")
    print(f"{given.frames} frames: {'more' if leaks else 'no more'} than chance + {MARGIN:.0%} by the total")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
