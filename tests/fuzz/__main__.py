"""Fuzz the SDK: each target in a process of its own.

    python -m tests.fuzz [TARGET …] [--inputs N] [--engine hypothesis|atheris] [--seed N]

Ends with 1 if an input missed the bar; the shrunk input is printed. A process that dies, or sits in native
code, counts as a miss as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import TARGETS, atheris_run, hypothesis_run, watch

INPUTS = 300
LINES, COLUMNS = 200, 300  # of what a missed target printed
SILENT_S = 120  # an input takes 10 s at most, which a busy machine may stretch, and shrinking tries many


def main() -> int:
    """Run the targets one after the other, and say how each ended."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="Fuzz the SDK.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="for each target (default: %(default)s)")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument(
        "--seed", type=int, help="repeat the same inputs, which hypothesis makes from the code"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this very process
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}; expected {', '.join(TARGETS)}")
    if given.inputs < 1:
        parser.error("--inputs: expected at least 1")
    if given.here:
        return _here(given.targets[0], given)
    results = [_apart(name, given) for name in given.targets or TARGETS]
    return int(not all(results))


def _here(name: str, given: argparse.Namespace) -> int:
    watch()
    if given.engine == "atheris":
        atheris_run(name, given.inputs)
    else:
        hypothesis_run(name, given.inputs, seed=given.seed)
    return 0


def _apart(name: str, given: argparse.Namespace) -> bool:
    line = [
        sys.executable,
        "-m",
        "tests.fuzz",
        name,
        "--here",
        "--engine",
        given.engine,
        f"--inputs={given.inputs}",
    ]
    line += [] if given.seed is None else [f"--seed={given.seed}"]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edge-purify-fuzz-") as home:
        environment = {**os.environ, "XDG_CACHE_HOME": f"{home}/cache", "XDG_STATE_HOME": f"{home}/state"}
        done = subprocess.run(
            line,
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=SILENT_S + 40 * given.inputs,
        )
    ended = "met the bar" if done.returncode == 0 else f"MISSED (exit code {done.returncode})"
    print(
        f"{name}: {given.inputs} inputs by {given.engine}, {ended}, {time.monotonic() - begun:.0f} s",
        flush=True,
    )
    if done.returncode:
        lines = done.stdout.decode(errors="replace").splitlines()[-LINES:]
        print("\n".join(line[:COLUMNS] for line in lines), flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
