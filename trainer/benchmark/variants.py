"""Which way to run a config is fastest here: precision, layout, compiled or not, one process or two.

Variants of one process take turns, a few steps each. Processes can't: each number of them is measured in a
program of its own, one with all cores, two that share them, and both again.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import torch

from sdk.errors import EdgePurifyError
from sdk.host.children import python_module
from sdk.host.cpus import available_cpus
from trainer.benchmark import Report, Side, Variant, images_per_s, interleave, loop, rate_ratio, silent
from trainer.config import Config
from trainer.data import DataSet
from trainer.data.download.fetch import OnProgress
from trainer.loop.fabric import Precision, open_fabric
from trainer.loop.run import Run
from trainer.loop.tensorboard import Board
from trainer.models import Defence

PRECISIONS = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}
LAYOUTS = {False: "contiguous", True: "channels-last"}
PASSES = 2  # of the comparison of processes, so that a machine that slows down meanwhile slows both


def ways(
    config: Config, training: DataSet, *, seconds: float, on_progress: OnProgress = silent
) -> tuple[Variant, ...]:
    """The loop in each precision and layout, eager and compiled; ``seconds`` in all, beside compilation.

    Ratios are to the config as it is.
    """
    mine = config.optimizer
    complaint = compiler_complaint()
    precisions = dict.fromkeys(("32-true", "bf16-mixed", mine.precision))
    keys = [(*key, False) for key in product(precisions, LAYOUTS)]
    keys += [(*key[:2], True) for key in keys if complaint is None]
    with ExitStack() as stack:
        sides = {key: _side(config, training, stack, *key) for key in keys}
        fabric = open_fabric(mine.precision)
        times = interleave(sides, seconds, fabric, on_progress=on_progress)
    reference = times[mine.precision, mine.channels_last, False]
    found = [
        Variant(_name(*key), images_per_s(taken, mine.batch_size), rate_ratio(taken, reference))
        for key, taken in times.items()
    ]
    if complaint is not None:
        found.append(Variant("compiled", reason=complaint))
    return tuple(found)


def processes(arguments: Sequence[str], *, seconds: float) -> tuple[Variant, ...]:
    """One process with all cores, and two with half of them each; ratios are to the former.

    Args:
        arguments: of ``edge-train benchmark``: the config, and what changes it.
        seconds: in all, beside the programs' start.

    Raises:
        EdgePurifyError: a program fails; its last words are in the message.
    """
    cores = available_cpus()
    if torch.cuda.is_available() or cores < 2:
        reason = "one for each GPU" if torch.cuda.is_available() else "one core is all there is"
        return (Variant("two processes", reason=reason),)
    shapes = ((1, cores), (2, cores // 2))
    each = seconds / (PASSES * len(shapes))
    rates = [[_rate(arguments, *shape, each) for shape in shapes] for _ in range(PASSES)]
    one, two = (mean(column) for column in zip(*rates, strict=True))
    return (
        Variant(f"one process, threads {cores}", one, 1.0),
        Variant(f"two processes, threads {cores // 2} each", two, two / one),
    )


def compiler_complaint() -> str | None:
    """Why ``torch.compile`` doesn't work here, in a line; None where it does."""
    try:
        torch.compile(lambda x: x.relu() + 1)(torch.zeros(8))
    except (RuntimeError, OSError, ImportError) as error:  # no compiler, or one that fails
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def compile_parts(defence: Defence, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have the networks that training calls compiled, at their first call; weights keep their names.

    (An objective as a whole takes a gradient in its forward pass, which breaks the graph.)
    """
    for part in (defence.classifier.trunk, *defence.classifier.members):
        part.compile(backend=backend)
    for method in ("encode_and_decode", "reconstruct"):  # what objectives call of REN, and of MAEP
        if hasattr(defence.purifier, method):
            compiled = torch.compile(getattr(defence.purifier, method), backend=backend)
            setattr(defence.purifier, method, compiled)


def _side(
    config: Config,
    training: DataSet,
    stack: ExitStack,
    precision: Precision,
    channels_last: bool,
    compiled: bool,
) -> Side:
    optimizer = msgspec.structs.replace(config.optimizer, precision=precision, channels_last=channels_last)
    changed = msgspec.structs.replace(config, optimizer=optimizer)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    state = Run(changed, open_fabric(precision), training, folder)
    if compiled:
        compile_parts(state.defence)
    steps = loop(state, stack.enter_context(Board(folder / "tensorboard")))
    stack.callback(steps.close)
    return lambda: next(steps)


def _name(precision: str, channels_last: bool, compiled: bool) -> str:
    return f"{PRECISIONS[precision]}, {LAYOUTS[channels_last]}, {'compiled' if compiled else 'eager'}"


def _rate(arguments: Sequence[str], n_processes: int, threads: int, seconds: float) -> float:
    """The loop's images/s in ``n_processes``, all together."""
    measure = ["--threads", str(threads), "--seconds", str(seconds), "--json"]
    program = python_module("trainer.cli", "benchmark", *arguments, *measure)
    torchrun = ["--standalone", f"--nproc-per-node={n_processes}", "--no-python", *program]
    done = subprocess.run(
        python_module("torch.distributed.run", *torchrun),
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no message"]
        raise EdgePurifyError(f"benchmark in {n_processes} processes: {words[0].strip()}")
    return msgspec.json.decode(done.stdout, type=Report).images_per_s
