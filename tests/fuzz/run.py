"""Try a target with many inputs: hypothesis makes and shrinks them, or atheris is led by coverage."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import bar

TARGETS = (
    "bundles", "frames", "classifiers", "checkpoints", "configs",
    "labels", "json_lines", "signatures", "page", "data_sets",
)  # fmt: skip
MAX_BUFFER = 1 << 14  # bytes that atheris may hand over for one input


class Target(Protocol):
    """What a module of ``tests.fuzz.targets`` has."""

    def prepare(self, folder: Path, stack: ExitStack) -> Any:
        """Make what all inputs share, in ``folder``; ``stack`` closes it."""

    def attempt(self, data: st.DataObject, shared: Any, folder: Path) -> None:
        """Draw one input from ``data`` and try it inside ``bar.held``; ``folder`` is empty, to be filled."""


def hypothesis_run(name: str, count: int, *, seed: int | None = None) -> None:
    """Try ``count`` inputs.

    Raises:
        bar.Missed, or whatever the code under trial raised: after the input was shrunk and printed.
    """
    with ExitStack() as stack:
        trial = _trial(name, stack)
        phases = (Phase.explicit, Phase.generate, Phase.shrink)
        wrapped = settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=phases,
            derandomize=seed is not None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )(given(st.data())(trial))
        wrapped()


def atheris_run(name: str, count: int) -> None:
    """The same, with inputs that reach new code; ends the process."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris isn't installed: pip install atheris (Linux on x86-64)")

    with ExitStack() as stack:
        with atheris.instrument_imports(include=["sdk", "export", "trainer"]):
            trial = _trial(name, stack)
        wrapped = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))(
            given(st.data())(trial)
        )
        fuzz_one: Callable[[bytes], Any] = wrapped.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
        atheris.Setup(
            [
                sys.argv[0],
                f"-runs={count}",
                f"-max_len={MAX_BUFFER}",
                "-len_control=0",
                "-timeout=30",
                "-rss_limit_mb=4096",
            ],
            lambda data: fuzz_one(data) and None,
        )
        atheris.Fuzz()


def _trial(name: str, stack: ExitStack) -> Callable[[st.DataObject], None]:
    target: Target = importlib.import_module(f"tests.fuzz.targets.{name}")  # type: ignore[assignment]
    room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-purify-fuzz-")))
    (room / "shared").mkdir()
    shared = target.prepare(room / "shared", stack)

    def trial(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory(dir=room) as folder:
            target.attempt(data, shared, Path(folder))

    return trial


def watch() -> None:
    """See ``bar.watch_files``; once a process."""
    bar.watch_files()
