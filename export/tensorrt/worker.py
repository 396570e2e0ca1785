"""One build in a process of its own, so that TensorRT running out of memory is one line, not a lost run."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from export.tensorrt.build import BuildError, OnPhase, Options, build_plan, unwritable
from sdk.files import write_atomically
from sdk.host.children import safe_spawn

Kind = Literal[
    "phase", "notice", "refused", "failed", "done", "gone"
]  #: "done" comes with the plan's hash and size
REASON_CHARS = 300  # of an error that nobody foresaw

_log = logging.getLogger("export")


@dataclass(frozen=True)
class Job:
    """One build: what the new process is told.

    ``timings`` is a file for the kernels' timings, for builds to come; None keeps none.
    """

    module: str
    onnx: bytes
    options: Options
    part: Path
    timings: Path | None


class Made(NamedTuple):
    """The plan as the builder made it, whatever becomes of the file that it was written to."""

    sha256: str
    size_bytes: int


def build_apart(job: Job, where: str, on_phase: OnPhase) -> Made:
    """Run one build in a new process and wait for it; the plan is then in ``job.part``.

    Args:
        where: the engine and the TensorRT that builds it, which head every error.

    Returns:
        Hash and size of the bytes that were built, not of those that are in the file by now.

    Raises:
        BuildError: TensorRT refuses, the plan can't be written, or the process is killed or crashes.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would take CUDA and open locks along
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(job, sender, os.getpid()), daemon=True)
    with safe_spawn():
        process.start()
    sender.close()
    kind: Kind = "phase"
    text = ""
    try:
        while kind in ("phase", "notice"):
            kind, text = receiver.recv()
            if kind == "phase":
                on_phase(text)
            elif kind == "notice":
                _log.warning("%s: %s", where, text)
    except EOFError:
        kind = "gone"
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
        receiver.close()
    if kind == "refused":
        raise BuildError(f"{where} {text}")
    if kind == "failed":
        raise BuildError(f"{where}: {text}")
    if kind == "gone":
        raise BuildError(f"{where}: {_ending(process.exitcode, job.options.workspace_mib)}")
    sha256, size_bytes = text.split()
    return Made(sha256, int(size_bytes))


def _work(job: Job, connection: Connection, parent: int) -> None:
    """What the new process runs: it writes the plan to ``job.part``, and sends how that goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent sees to it
    _die_with(parent)
    lock = threading.Lock()

    def send(kind: Kind, text: str = "") -> None:
        with lock:  # TensorRT reports from its own threads
            connection.send((kind, text))

    try:
        built = build_plan(
            import_module(job.module),
            job.onnx,
            job.options,
            known_timings=None if job.timings is None else _known(job.timings),
            on_phase=lambda phase: send("phase", phase),
            on_notice=lambda notice: send("notice", notice),
        )
        _write_plan(job.part, built.plan)
        if job.timings is not None and (reason := _not_kept(job.timings, built.timings or b"")):
            send("notice", reason)
        send("done", f"{hashlib.sha256(built.plan).hexdigest()} {len(built.plan)}")
    except BuildError as error:
        send("refused", str(error))
    except OSError as error:
        send("failed", unwritable(error, job.part))
    except MemoryError:
        send("failed", f"out of memory; {_remedy(job.options.workspace_mib)}")
    except Exception as error:  # whatever it is: it is the parent that tells the user, in one line
        reason = " ".join(str(error).split())[:REASON_CHARS]
        send("failed", f"{type(error).__name__}: {reason}")


def _write_plan(part: Path, plan: bytes) -> None:
    """Fill the file that the parent created; what was put in its place by a link is not followed."""
    flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(part, "wb", opener=lambda name, _: os.open(name, flags)) as stream:
        stream.write(plan)


def _known(timings: Path) -> bytes:
    try:
        return timings.read_bytes()
    except OSError:  # then this build takes longer, and that is all
        return b""


def _not_kept(path: Path, timings: bytes) -> str | None:
    """Write the timings; what the user reads if that can't be done, which is no reason to lose the engine."""
    try:
        write_atomically(path, timings)
    except OSError as error:
        return (
            f"{path}: the timings of kernels can't be kept: {error.strerror}; the next build measures again"
        )
    return None


def _ending(exit_code: int | None, workspace_mib: int) -> str:
    """How a build's process ended that didn't say anything."""
    if exit_code == -signal.SIGKILL:
        return f"its process was killed, as the kernel does when memory runs out; {_remedy(workspace_mib)}"
    if exit_code is not None and exit_code < 0:
        return f"its process crashed with {signal.Signals(-exit_code).name}"
    return f"its process ended with exit code {exit_code}"


def _remedy(workspace_mib: int) -> str:
    return f"free memory, or lower --workspace (now {workspace_mib} MiB)"


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, whatever ends that; Linux alone can."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)
