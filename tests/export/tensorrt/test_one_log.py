"""Nothing in this project gives TensorRT a logger that is freed before the process ends.

TensorRT keeps the first logger in its global one. Two builders that overlap, the first of them freed with its
logger, leave the global logger dangling; the next global message crashes the process.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

OVERLAP = """
import gc
import tensorrt_rtx as trt
{imports}
def first():
    return trt.Builder({log})
one = first()
other = trt.Builder({log})
del one
gc.collect()
junk = [bytearray(b"\\xff" * (8 + 8 * (size % 60))) for size in range(300000)]
for _ in range(3):
    trt.get_plugin_registry().load_library("/absent.so")
print("alive", flush=True)
"""


def overlap(log: str, imports: str = "") -> subprocess.CompletedProcess[str]:
    """Two builders, the first one freed, then a message of the global logger; with a logger each: SIGSEGV."""
    line = [sys.executable, "-c", OVERLAP.format(log=log, imports=imports)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx isn't installed")
def test_builders_may_overlap_and_be_freed_in_any_order() -> None:
    done = overlap("log_of(trt)", "from sdk.backends.tensorrt_log import log_of")
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_every_logger_is_the_one_that_lives_as_long_as_the_process() -> None:
    files = [path for name in ("sdk", "export", "tests") for path in (ROOT / name).rglob("*.py")]
    fakes = ROOT / "tests" / "sdk" / "fakes"
    made = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if fakes not in path.parents
        and path != Path(__file__)
        and re.search(r"\btrt\.Logger\(|\bILogger\b.*__init__|\(trt\.ILogger\)", path.read_text("utf-8"))
    ]
    assert not made
