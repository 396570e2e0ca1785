"""A bundle's twin in torch eager, frame by frame: what ``edge-purify benchmark`` takes turns with.

    python -m trainer.eager BUNDLE PICTURE

Prints one line of JSON when it is ready, and then, for every line on standard input, the milliseconds that
one frame took: resized as the runtime does it, drawn, purified, classified, softmax.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import cv2
import msgspec
import torch

from sdk.bundle import Bundle
from sdk.errors import EdgePurifyError
from sdk.host.cpus import available_cpus
from sdk.preprocess import Frame, Preprocessor
from trainer.models.defence import Defence
from trainer.models.twin import read_twin

TRIAL_FRAMES = 20


def main(folder: str, picture: str) -> None:
    """Answer every line of standard input with the milliseconds of one frame."""
    bundle = Bundle.open(folder)
    frame_ms = timed(read_twin(bundle), Preprocessor(bundle.manifest.image), cv2.imread(picture))
    threads = fastest_threads(frame_ms)
    _say({"torch": str(torch.__version__), "threads": threads})
    for _ in sys.stdin:
        _say(frame_ms())


@torch.inference_mode()
def classify(defence: Defence, image: torch.Tensor, generator: torch.Generator) -> tuple[int, float]:
    """The most probable class of ``image`` (1, 3, H, W) under a fresh draw, and its probability."""
    draw = defence.draw(1, generator)
    score, index = defence(image, draw).softmax(-1)[0].max(0)
    return int(index), float(score)


def timed(defence: Defence, prepare: Preprocessor, frame: Frame) -> Callable[[], float]:
    """A function that takes ``frame`` through ``defence`` and returns the milliseconds it took."""
    generator = torch.Generator()
    generator.seed()

    def frame_ms() -> float:
        start = perf_counter()
        classify(defence, torch.from_numpy(prepare(frame)), generator)
        return (perf_counter() - start) * 1e3

    return frame_ms


def fastest_threads(frame_ms: Callable[[], float]) -> int:
    """Let torch use one thread or all CPUs, whichever is faster here; returns how many."""
    trials = {}
    for threads in {1, available_cpus()}:
        torch.set_num_threads(threads)
        trials[threads] = median(frame_ms() for _ in range(TRIAL_FRAMES))
    fastest = min(trials, key=trials.__getitem__)
    torch.set_num_threads(fastest)
    return fastest


def _say(what: object) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except EdgePurifyError as error:
        sys.exit(str(error))
