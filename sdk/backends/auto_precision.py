"""Which precision of a bundle is best on this machine in ONNX Runtime, or in OpenVINO, by a short trial that
is remembered.

    trial(bundle, "onnxruntime").chosen  # "fp32", "fp16" or "int8"

Correct comes before fast. A precision whose golden outputs come out too far off here is never taken: 8-bit
kernels saturate on some processors. Of the others it is the most exact one, unless a less exact one needs a
tenth less time.

A trial takes, per precision, under a second for engines of a few milliseconds, and in OpenVINO two more to
compile them. It is remembered for the bundle's digest, the processor, the CPUs that the process may use, the
backend with its version, the provider and its GPU, in the user's cache. Where that is damaged, can't be
written, or can be written by others, or where a precision failed to run, the trial is made again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np

from sdk.backends.golden import Golden, replay
from sdk.backends.interface import Backend, OnnxBackend
from sdk.backends.providers import Provider, ProviderError
from sdk.bundle import Bundle, Precision
from sdk.draw import Drawer
from sdk.errors import BackendError
from sdk.files import write_atomically
from sdk.host.cache import cache_root, check_private, make_private
from sdk.host.cpus import available_cpus
from sdk.host.hardware import gpu_model, processor

SCHEMA = 3
FOLDER = "trials"  # inside the cache
MARGIN = 0.1  # of the time, that a less exact precision must save
TIMED_S = 0.25  # of running, per precision
MIN_RUNS, MAX_RUNS = 5, 100

OpenBackend = Callable[[Bundle, str, str, str], Backend]  #: ``sdk.backends.open_backend``

_log = logging.getLogger("sdk")


class Machine(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All that the outcome depends on, beside the bundle."""

    processor: str
    processor_sha256: str
    cpus: int
    backend: OnnxBackend
    version: str  #: the backend's
    provider: Provider
    gpu: str | None = None  #: where the provider runs on one, and it could be told


class Measured(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One precision's outcome: the time of a frame's two engines, or why it must not be taken.

    ``failed`` says that it didn't run, which may be otherwise the next time, as when memory was short.
    """

    precision: Precision
    frame_ms: float | None
    complaint: str | None = None
    failed: bool = False

    def __str__(self) -> str:
        what = self.complaint if self.frame_ms is None else f"{self.frame_ms:.2f} ms"
        return f"{self.precision} {what}"


class Trial(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What every precision of a bundle gave, the most exact first."""

    schema: int
    bundle: str  #: its digest
    machine: Machine
    measured: tuple[Measured, ...]

    @property
    def chosen(self) -> Precision:
        """The precision to take.

        Raises:
            BackendError: none gives the golden outputs.
        """
        best: tuple[float, Precision] | None = None
        for found in self.measured:
            if found.frame_ms is not None and (best is None or found.frame_ms < (1 - MARGIN) * best[0]):
                best = found.frame_ms, found.precision
        if best is None:
            raise BackendError(
                f"precision auto: none is right on this machine: {self}",
                hint="export the bundle again, or take one all the same, like --precision fp32",
            )
        return best[1]

    def __str__(self) -> str:
        return ", ".join(map(str, self.measured))


def trial(
    bundle: Bundle, backend: OnnxBackend, provider: Provider = "cpu", *, open_backend: OpenBackend
) -> Trial:
    """The trial of ``bundle`` that is remembered, or one made now and remembered.

    Raises:
        BundleError: the golden outputs can't be read.
        BackendError: the backend or its provider can't be had, or no precision is right here.
    """
    machine = this_machine(backend, provider)
    found = remembered(bundle, backend, provider)
    if found is None:
        precisions = bundle.manifest.precisions
        measured = tuple(
            _measure(bundle, precision, backend, provider, open_backend) for precision in precisions
        )
        found = Trial(SCHEMA, bundle.digest, machine, measured)
        _log.info("precision auto takes %s, measured on this machine: %s", found.chosen, found)
        if not any(measured.failed for measured in found.measured):
            _remember(found)
    return found


def remembered(bundle: Bundle, backend: OnnxBackend, provider: Provider = "cpu") -> Trial | None:
    """What a trial on this very machine gave; None if there was none, or its record is of no use.

    Raises:
        BackendError: the backend can't be had.
    """
    machine = this_machine(backend, provider)
    try:
        check_private(cache_root())
        found = msgspec.json.decode(_path(bundle.digest, machine).read_bytes(), type=Trial)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, BackendError) as error:
        _log.debug("precision auto: no trial remembered: %s", error)
        return None
    precisions = tuple(measured.precision for measured in found.measured)
    expected = (SCHEMA, bundle.digest, machine, bundle.manifest.precisions)
    return found if (found.schema, found.bundle, found.machine, precisions) == expected else None


def this_machine(backend: OnnxBackend, provider: Provider = "cpu") -> Machine:
    name, sha256 = processor()
    version: str = import_module(f"sdk.backends.{backend}").VERSION
    gpu = None if provider == "cpu" else gpu_model()
    return Machine(name, sha256, available_cpus(), backend, version, provider, gpu)


def _measure(
    bundle: Bundle,
    precision: Precision,
    name: OnnxBackend,
    provider: Provider,
    open_backend: OpenBackend,
) -> Measured:
    """Try one precision; its engines are gone before the next's are loaded, as a small device may need."""
    try:
        with closing(open_backend(bundle, name, precision, provider)) as backend:
            golden = Golden.load(bundle, backend)
            complaints = [off.complaint for off in replay(bundle, backend, golden) if off.complaint]
            if complaints:
                return Measured(precision, None, complaints[0])
            return Measured(precision, round(_frame_ms(bundle, backend), 4))
    except ProviderError:  # which is no fault of the precision
        raise
    except BackendError as error:
        return Measured(precision, None, str(error), failed=True)


def _frame_ms(bundle: Bundle, backend: Backend) -> float:
    """The shortest time of a frame's two engines: other work on the machine only ever adds to it."""
    size = bundle.manifest.image
    image = np.full((1, 3, size.height, size.width), 0.5, np.float32)
    draws = Drawer(bundle.manifest, seed=0).draw(MAX_RUNS)
    times_s: list[float] = []
    for draw in draws:
        start = perf_counter()
        backend.run(draw, image, want_purified=False)
        times_s.append(perf_counter() - start)
        if sum(times_s) > TIMED_S and len(times_s) >= MIN_RUNS:
            break
    return min(times_s) * 1e3


def _remember(found: Trial) -> None:
    """Write the record at once or not at all; where that can't be done, the next run measures again."""
    try:
        path = _path(found.bundle, found.machine)
        make_private(path.parent)
        write_atomically(path, msgspec.json.encode(found))
    except (OSError, BackendError) as error:
        _log.debug("precision auto: the trial can't be remembered: %s", error)


def _path(digest: str, machine: Machine) -> Path:
    key = hashlib.sha256(msgspec.json.encode(machine)).hexdigest()
    return cache_root() / FOLDER / f"{digest[:16]}.{key[:16]}.json"
