"""A frame of edge-purify beside the bundle's torch twin in eager mode: the same resize, draw and networks.

    python benchmarks/torch_eager.py [--bundle DIR] [--frames N] [--size WxH] [--json] [--gate]

Torch runs in a process of its own, on the thread count that is fastest for it here, and takes turns with the
runtime. Needs the extra [train].
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import click
import cv2
import msgspec

from sdk import EdgePurifyError
from sdk.arrays import Pixels
from sdk.benchmark.bounds import at_least, says
from sdk.benchmark.children import Child
from sdk.benchmark.report import Check, Quantiles
from sdk.benchmark.subject import check_size, load, natural_frame, open_bundle, parse_size
from sdk.benchmark.turns import Milliseconds, ours, quantiles, take_turns
from sdk.bundle import Bundle
from sdk.errors import GateError, UsageError
from sdk.host.cpus import available_cpus
from sdk.preprocess import Preprocessor
from sdk.purifier import Purifier

if TYPE_CHECKING:
    import torch

    from trainer.models.defence import Defence

BOUND = 2.0  # times as fast as torch eager
IN_A_ROW = 50  # frames of one side: enough to find its own weights in the caches and its threads awake
TRIAL_FRAMES = 20
SERVE = "serve"  # the first argument of the process that runs torch


class Comparison(msgspec.Struct, frozen=True):
    """The whole run; ``torch_threads`` is the count that served torch best."""

    bundle: str
    torch: str
    torch_threads: int
    frame_width: int
    frame_height: int
    frames: int
    ours: Quantiles
    eager: Quantiles
    check: Check


class Greeting(msgspec.Struct, frozen=True):
    """What torch's process says when it is ready."""

    torch: str
    threads: int


@click.command()
@click.option("--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]")
@click.option("--frames", metavar="N", type=click.IntRange(min=IN_A_ROW), default=300, show_default=True)
@click.option("--size", metavar="WxH", default="1280x720", show_default=True, help="Size of the frames.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--gate", is_flag=True, help="Exit with 3 if the bound is missed.")
def main(bundle: str | None, frames: int, size: str, as_json: bool, gate: bool) -> None:
    """Print what a frame costs here and in torch eager."""
    try:
        found = compare(open_bundle(bundle), parse_size(size), frames)
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        else:
            click.echo(
                f"{found.frames} frames of {found.frame_width}x{found.frame_height}: "
                f"torch {found.torch} eager on {found.torch_threads} threads {found.eager.p50_ms:.3f} ms, "
                f"edge-purify {found.ours.p50_ms:.3f} ms (p50)\n"
                f"{'ok' if found.check.passed else 'FAILED'}  {says(found.check)}"
            )
        if gate and not found.check.passed:
            raise GateError(says(found.check), hint="measure again on a machine with nothing else to do")
    except EdgePurifyError as error:
        click.echo(f"torch_eager: error: {error}", err=True)
        sys.exit(error.exit_code)


def compare(bundle: Bundle, frame_size: tuple[int, int], frames: int) -> Comparison:
    """Let both sides take turns on one frame of ``frame_size`` (width, height).

    Raises:
        UsageError: the bundle has no torch twin, or the frame is smaller than its image.
        BackendError: torch's process ended.
    """
    check_size(bundle, frame_size)
    if bundle.manifest.twin is None:
        raise UsageError(f"bundle {bundle.folder}: it has no torch twin to compare with")
    frame = natural_frame(*frame_size)
    with tempfile.TemporaryDirectory(prefix="edge-purify-") as folder, closing(load(bundle, "auto")) as here:
        picture = Path(folder, "frame.png")
        cv2.imwrite(str(picture), frame)
        with Child("torch", [sys.executable, __file__, SERVE, str(bundle.folder), str(picture)]) as child:
            greeting = msgspec.json.decode(child.hear(), type=Greeting)

            def eager() -> Milliseconds:
                return {"total": float(child.ask())}

            sides = {"ours": ours(Purifier(bundle, here), frame), "eager": eager}
            times = take_turns(sides, frames // IN_A_ROW, calls=IN_A_ROW)
    here_ms, eager_ms = (quantiles(times[name]["total"]) for name in sides)
    return Comparison(
        bundle=bundle.manifest.name,
        torch=greeting.torch,
        torch_threads=greeting.threads,
        frame_width=frame_size[0],
        frame_height=frame_size[1],
        frames=frames,
        ours=here_ms,
        eager=eager_ms,
        check=at_least("torch eager / frame", eager_ms.p50_ms / here_ms.p50_ms, BOUND),
    )


def serve(folder: str, picture: str) -> None:
    """Answer every line of standard input with the milliseconds of one frame in torch eager."""
    import torch

    from trainer.models.twin import read_twin

    bundle = Bundle.open(folder)
    frame_ms = timed(read_twin(bundle), Preprocessor(bundle.manifest.image), cv2.imread(picture))
    threads = fastest_threads(frame_ms)
    _say(Greeting(str(torch.__version__), threads))
    for _ in sys.stdin:
        _say(frame_ms())


def classify(defence: Defence, image: torch.Tensor, generator: torch.Generator) -> tuple[int, float]:
    """The most probable class of ``image`` (1, 3, H, W) under a fresh draw, and its probability."""
    import torch

    with torch.inference_mode():
        draw = defence.draw(1, generator)
        score, index = defence(image, draw).softmax(-1)[0].max(0)
    return int(index), float(score)


def timed(defence: Defence, prepare: Preprocessor, frame: Pixels) -> Callable[[], float]:
    """A function that takes ``frame`` through ``defence`` and returns the milliseconds it took."""
    import torch

    generator = torch.Generator()
    generator.seed()

    def frame_ms() -> float:
        start = perf_counter()
        classify(defence, torch.from_numpy(prepare(frame)), generator)
        return (perf_counter() - start) * 1e3

    return frame_ms


def fastest_threads(frame_ms: Callable[[], float]) -> int:
    """Let torch use one thread or all CPUs, whichever is faster here; returns how many."""
    import torch

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
    if sys.argv[1:2] == [SERVE]:
        try:
            serve(*sys.argv[2:])
        except EdgePurifyError as error:
            sys.exit(str(error))
    else:
        main()
