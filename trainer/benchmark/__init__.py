"""What the training loop costs beyond the arithmetic of its recipe, measured in one process.

A few steps of the loop are timed by turns with the same steps *bare*, so that a busy machine slows both:

* the loop: loading, augmentation, draws, the objective (an adversarial recipe's attack is part of it) and its
  backward pass, optimizer, schedule, the average of the weights, progress, saves. Validation comes once an
  epoch and isn't counted;
* bare: the objective and its backward pass alone, so the same forward and backward passes in the same model,
  precision and layout, on random tensors that lie ready.

The model is untrained, and the steps are the first of a run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Hashable, Mapping
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec
import torch
from lightning_fabric import Fabric
from rich.table import Table

from sdk.errors import GateError, UsageError
from trainer.config import Config
from trainer.data import DataSet, Images, keyed_generator
from trainer.data.catalogue import IN_MEMORY
from trainer.data.download.fetch import OnProgress
from trainer.image_size import height_and_width
from trainer.loop.fabric import open_fabric
from trainer.loop.fit import check_fit
from trainer.loop.progress import Clock
from trainer.loop.run import Run
from trainer.loop.tensorboard import Board

RATIO_BOUND = 0.9  # the loop's images/s over the bare rate
STEPS_PER_ROUND = 4  # of each side, between two turns
WARM_UP_ROUNDS = 1

Key = TypeVar("Key", bound=Hashable)
Side = Callable[[], object]  #: does one step; raises ``StopIteration`` at the run's end


class Variant(msgspec.Struct, frozen=True):
    """Another way to run the same config.

    Attributes:
        ratio: its images/s over those of the config as it is, or of one process; None where it was not run.
        reason: why it was not.
    """

    name: str
    images_per_s: float | None = None
    ratio: float | None = None
    reason: str = ""


class Report(msgspec.Struct, frozen=True):
    """One benchmark's figures.

    Attributes:
        threads: of each process.
        steps: of the loop that were timed, and as many bare.
        images_per_s: of the loop, all processes together.
        ratio: median over rounds of the loop's rate over the bare rate.
    """

    config: str
    torch: str
    device: str
    processes: int
    threads: int
    batch_size: int
    precision: str
    channels_last: bool
    steps: int
    images_per_s: float
    bare_images_per_s: float
    ratio: float
    ratio_bound: float = RATIO_BOUND
    variants: tuple[Variant, ...] = ()


def silent(what: str, done: int, total: int | None) -> None:
    """Reports nothing."""


def run(config: Config, training: DataSet, *, seconds: float, on_progress: OnProgress = silent) -> Report:
    """Time ``config``'s loop for about ``seconds``, half of them bare, in every process of ``torchrun``.

    Args:
        training: what to train on; ``synthetic`` makes random images.

    Raises:
        UsageError: the config's numbers don't fit the data, or its run is too short to be timed.
    """
    fabric = open_fabric(config.optimizer.precision)
    fabric.launch()
    check_fit(config, training, fabric.world_size)
    with tempfile.TemporaryDirectory() as folder, Board(Path(folder) / "tensorboard") as board:
        state = Run(config, fabric, training, Path(folder))
        steps = loop(state, board)
        sides: dict[str, Side] = {"loop": lambda: next(steps), "bare": Bare(state)}
        times = interleave(sides, seconds, fabric, on_progress=on_progress)
        steps.close()
    batch = config.optimizer.batch_size
    return Report(
        config=config.name,
        torch=str(torch.__version__),
        device=fabric.device.type,
        processes=fabric.world_size,
        threads=torch.get_num_threads(),
        batch_size=batch,
        precision=config.optimizer.precision,
        channels_last=config.optimizer.channels_last,
        steps=STEPS_PER_ROUND * len(times["loop"]),
        images_per_s=images_per_s(times["loop"], batch),
        bare_images_per_s=images_per_s(times["bare"], batch),
        ratio=rate_ratio(times["loop"], times["bare"]),
    )


def render(report: Report) -> Table:
    """The report as a table for a terminal."""
    layout = "channels-last" if report.channels_last else "contiguous"
    table = Table(
        title=f"{report.config}, batches of {report.batch_size}, {report.precision}, {layout}\n"
        f"torch {report.torch} on {report.device}, processes {report.processes}, threads {report.threads}",
        caption=f"{report.steps} steps; the loop's bound is {report.ratio_bound} of the bare rate",
    )
    table.add_column("training")
    table.add_column("images/s", justify="right")
    table.add_column("ratio", justify="right")
    table.add_row("the loop", f"{report.images_per_s:.0f}", f"{report.ratio:.3f}")
    table.add_row("forward and backward, bare", f"{report.bare_images_per_s:.0f}", "1", end_section=True)
    for variant in report.variants:
        if variant.ratio is None:
            table.add_row(variant.name, "–", variant.reason)
        else:
            table.add_row(variant.name, f"{variant.images_per_s:.0f}", f"{variant.ratio:.2f}")
    return table


def as_json(report: Report) -> str:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def gate(report: Report) -> None:
    """Raise a ``GateError`` if the loop's rate is below its bound."""
    if report.ratio < report.ratio_bound:
        raise GateError(
            f"{report.config}: expected the loop at {report.ratio_bound} of the bare rate or above, got "
            f"{report.ratio:.3f} ({report.images_per_s:.0f} of {report.bare_images_per_s:.0f} images/s)",
            hint="measure again on a machine with nothing else to do",
        )


def synthetic(config: Config) -> Images:
    """Random images, as many and as large as the config trains on; pairs of them for a bank.

    Raises:
        UsageError: the data set is of image folders, where reading the files is what takes time.
    """
    if config.data.name not in IN_MEMORY:
        raise UsageError(
            f"--data: missing; {config.data.name!r} is read from image folders, and that is part of the loop"
        )
    count = max(0, IN_MEMORY[config.data.name].images["train"] - config.data.validation)
    channels = 6 if getattr(config.recipe, "bank", None) else 3
    shape = (count, channels, *height_and_width(config.model.image_size))
    generator = keyed_generator("synthetic")
    return Images(
        torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        torch.randint(config.model.n_classes, (count,), generator=generator),
        tuple(str(label) for label in range(config.model.n_classes)),
    )


def loop(state: Run, board: Board) -> Generator[None, None, None]:
    """The loop's steps, one each time that the next is asked for."""
    clock = Clock(state.config.optimizer, state.steps)
    while state.step < state.steps:
        for progress in state.train_epoch(clock):
            board(progress)
            yield


class Bare:
    """A step's forward and backward passes on fixed random tensors, which lie where they are needed."""

    def __init__(self, state: Run) -> None:
        self.state = state
        self.step = 0
        size, generator = state.config.optimizer.batch_size, keyed_generator("bare")
        batch = state.training[:size]
        images = batch.pixels.float() / 255
        draw, noise = state.defence.draw(size, generator), torch.rand(images.shape, generator=generator)
        device, layout = state.fabric.device, state.layout
        self.parts = [
            (
                images[rows].to(device).contiguous(memory_format=layout),
                batch.targets[rows].to(device),
                draw[rows].to(device),
                noise[rows].to(device),
            )
            for rows in state.own_rows(size)
        ]

    def __call__(self) -> None:
        state = self.state
        for part in self.parts:
            with state.fabric.no_backward_sync(state.objective):
                loss, _ = state.loss(*part, step=self.step)
                state.fabric.backward(loss / len(self.parts))
                state.plain_objective.after_backward()
        state.optimizer.zero_grad()
        self.step += 1


def interleave(
    sides: Mapping[Key, Side], seconds: float, fabric: Fabric, *, on_progress: OnProgress = silent
) -> dict[Key, list[float]]:
    """Seconds of each round of each side; who goes first changes from round to round.

    Ends after ``seconds``, or with a run that ends before; at least one round is timed.

    Raises:
        UsageError: a run ends in its first rounds.
    """
    times: dict[Key, list[float]] = {name: [] for name in sides}
    order = list(sides)
    try:
        for name in order * WARM_UP_ROUNDS:
            _timed(sides[name], fabric)
        start, is_over = time.perf_counter(), False
        while not is_over:
            found = {name: _timed(sides[name], fabric) for name in order}
            for name, taken in found.items():
                times[name].append(taken)
            order.append(order.pop(0))
            elapsed = time.perf_counter() - start
            on_progress("benchmark", min(int(elapsed), int(seconds)), int(seconds))
            is_over = fabric.broadcast(elapsed >= seconds)  # all processes stop after the same round
    except StopIteration:  # the end of a run
        if not all(times.values()):
            raise UsageError(
                f"the run ends within {(1 + WARM_UP_ROUNDS) * STEPS_PER_ROUND} steps, too few to be timed",
                hint="make optimizer.epochs larger, or optimizer.batch_size smaller",
            ) from None
    return times


def images_per_s(round_seconds: list[float], batch_size: int) -> float:
    """The median round's rate."""
    return STEPS_PER_ROUND * batch_size / median(round_seconds)


def rate_ratio(round_seconds: list[float], reference: list[float]) -> float:
    """The rate of one side over that of the other, the median over rounds."""
    return median(b / a for a, b in zip(round_seconds, reference, strict=True))


def _timed(side: Side, fabric: Fabric) -> float:
    start = time.perf_counter()
    for _ in range(STEPS_PER_ROUND):
        side()
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
