"""A bundle's engines for one target: built where they are missing, reused where they fit.

A plan appears under its name by a rename, its sidecar after it, so that a kill at any time leaves no half
engine. A lock that dies with its process makes two builds of one bundle follow each other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.tensorrt.build import BuildError, OnPhase, Options, Profile, unwritable
from export.tensorrt.devices import BuildHost, Target, build_host, find_target
from export.tensorrt.files import listing, locked, make_folder, publish
from export.tensorrt.rebatch import with_batch
from export.tensorrt.worker import Job, build_apart
from sdk.backends.plan_store import (
    NAMES,
    SCHEMA,
    Fingerprint,
    Sidecar,
    built_engines,
    bundle_folder,
    listed_engines,
    plan_path,
)
from sdk.bundle import Bundle, Engine, Precision, sha256_of
from sdk.errors import UsageError
from sdk.files import AtomicFile

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Provided:
    """One engine of a run: ``built`` now, or reused; ``build_s`` is what its build took, now or then."""

    engine: str
    precision: Precision
    built: bool
    plan: str
    size_bytes: int
    build_s: float
    batch: int = 1


@dataclass(frozen=True)
class Outcome:
    """A run: what built, for what, and every engine in the folder that it wrote to."""

    bundle: str
    digest: str
    target: str
    backend: str
    version: str
    folder: str
    engines: tuple[Provided, ...]


def build_engines(
    bundle: Bundle,
    target_name: str,
    *,
    precisions: Sequence[str] = (),
    workspace_mib: int | None = None,
    profiles: tuple[Profile, ...] = (),
    dla: int | None = None,
    batch: int = 1,
    force: bool = False,
    into_bundle: bool = False,
    on_step: OnStep = lambda what, done, total: None,
    on_phase: OnPhase = lambda phase: None,
) -> Outcome:
    """Build every engine of ``bundle`` for a target, or reuse what was built of the same fingerprint.

    Args:
        precisions: which of the bundle's to build; empty takes all that the target runs.
        workspace_mib: scratch memory that a layer may take, in MiB; None takes the target's.
        profiles: shape ranges of inputs whose ONNX shape is dynamic.
        dla: number of the deep-learning accelerator that runs what it can of the classifiers.
        batch: build engines for so many images at a time as well, beside those for one.
        force: build even what could be reused.
        into_bundle: write beside the ONNX files instead of into the user's cache, and list the engines in
            ``bundle.json``; a signature of it is removed.
        on_step: called with 'ID PRECISION', the engines done and their total as each engine begins.
        on_phase: called with the builder's phases.

    Raises:
        UsageError: no such target or precision.
        BackendError: this host can't build for the target, or others may write to the cache.
        BuildError: TensorRT refuses an engine, is killed, or the plan can't be written.
        BundleError: the folder for engines inside the bundle leads out of it.
    """
    run = _plan(bundle, target_name, precisions, (workspace_mib, profiles, dla), batch)
    total = len(run.engines)
    provided: list[Provided] = []
    made: dict[str, Sidecar] = {}  # what was built now, by the plan's path
    try:
        folder = make_folder(bundle, into_bundle)
        with locked(folder, lambda: on_step("waiting for another build", 0, total)):
            for done, (engine, precision, size) in enumerate(run.engines):
                on_step(f"{engine.id} {precision}" + (f" x{size}" if size > 1 else ""), done, total)
                one, sidecar = run.of_batch(size).provide(engine, precision, folder, force, on_phase)
                provided.append(one)
                if one.built:
                    made[one.plan] = sidecar
            if into_bundle:
                bundle = listing(bundle, made)
    except OSError as error:
        raise BuildError(unwritable(error, bundle.folder)) from error
    return Outcome(
        bundle=bundle.manifest.name,
        digest=bundle.digest,
        target=run.target.name,
        backend=run.target.backend,
        version=run.host.version,
        folder=str(folder),
        engines=tuple(provided),
    )


def engines_key(
    bundle: Bundle,
    target_name: str,
    *,
    precisions: Sequence[str] = (),
    workspace_mib: int | None = None,
    profiles: tuple[Profile, ...] = (),
    dla: int | None = None,
    batch: int = 1,
) -> str:
    """One hash over the fingerprints of all engines of a run, for a cache that keeps them between runs.

    Raises:
        UsageError, BackendError: as ``build_engines``.
    """
    run = _plan(bundle, target_name, precisions, (workspace_mib, profiles, dla), batch)
    keys = [run.of_batch(size).fingerprint(engine, precision).key for engine, precision, size in run.engines]
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()


Wanted = tuple[int | None, tuple[Profile, ...], int | None]  #: workspace in MiB, profiles, DLA


def options_for(target: Target, wanted: Wanted) -> Options:
    """The options of a build for ``target``, with its workspace where none is wanted."""
    workspace_mib, profiles, dla = wanted
    if dla is not None and target.model != "AGX Orin":  # the others served have none
        raise UsageError(f"dla: {target.name} has no deep-learning accelerator", hint="leave --dla out")
    return Options(target.workspace_mib if workspace_mib is None else workspace_mib, profiles, dla)


def _plan(
    bundle: Bundle, target_name: str, precisions: Sequence[str], wanted: Wanted, batch: int = 1
) -> _Run:
    target = find_target(target_name)
    chosen = choose(bundle, target, precisions)
    options = options_for(target, wanted)
    engines = [
        (engine, precision, size)
        for precision in chosen
        for size in sorted({1, batch})
        for engine in bundle.manifest.engines
    ]
    return _Run(bundle, target, build_host(target), options=options, engines=engines)


@dataclass(frozen=True)
class _Run:
    """What is the same for all engines of a run."""

    bundle: Bundle
    target: Target
    host: BuildHost
    options: Options
    engines: list[tuple[Engine, Precision, int]]  # the last: images at a time

    def of_batch(self, size: int) -> _Run:
        return dataclasses.replace(self, options=dataclasses.replace(self.options, batch=size))

    def provide(
        self, engine: Engine, precision: Precision, folder: Path, force: bool, on_phase: OnPhase
    ) -> tuple[Provided, Sidecar]:
        """The engine, built unless ``folder`` has it whole, and its sidecar."""
        fingerprint = self.fingerprint(engine, precision)
        plan = plan_path(folder, engine.id, fingerprint)
        found = None if force else self._reusable(engine.id, plan, fingerprint)
        sidecar = found or self._build(engine, fingerprint, plan, on_phase)
        now = time.time_ns()  # the kernel's own stamps are too coarse to order two quick runs by
        os.utime(plan, ns=(now, now), follow_symlinks=False)  # the runtime takes the last built or reused
        provided = Provided(
            *(engine.id, precision, found is None, str(plan), sidecar.plan_size_bytes, sidecar.build_s),
            batch=self.options.batch,
        )
        return provided, sidecar

    def _reusable(self, engine_id: str, plan: Path, fingerprint: Fingerprint) -> Sidecar | None:
        """The sidecar of ``plan``, if that is there, whole, trusted, and of this very fingerprint."""
        if plan.parent == bundle_folder(self.bundle):  # where only what the manifest lists is trusted
            found = listed_engines(self.bundle, engine_id, fingerprint.precision)
        else:
            found = built_engines(plan.parent, engine_id, fingerprint.precision)
        for built in found:
            sidecar = built.sidecar
            if built.plan != plan or sidecar.fingerprint != fingerprint or not plan.is_file():
                continue
            if sha256_of(plan) == sidecar.plan_sha256:
                return sidecar
        return None

    def options_of(self, engine: Engine) -> Options:
        """Those of the run; a DLA is for classifiers alone: it can run next to nothing of a purifier."""
        is_purifier = engine in self.bundle.manifest.purifiers
        return dataclasses.replace(self.options, dla=None) if is_purifier else self.options

    def fingerprint(self, engine: Engine, precision: Precision) -> Fingerprint:
        return Fingerprint(
            backend=self.target.backend,
            version=self.host.version,
            onnx_sha256=engine.onnx[precision].sha256,
            precision=precision,
            capabilities=self.host.capabilities,
            gpu=self.host.gpu,
            board=self.host.board,
            multiprocessors=self.host.multiprocessors,
            options=self.options_of(engine).fields(),
        )

    def _build(self, engine: Engine, fingerprint: Fingerprint, plan: Path, on_phase: OnPhase) -> Sidecar:
        precision = fingerprint.precision
        timings = None
        if self.target.backend == "tensorrt":  # TensorRT-RTX times kernels on the device that runs them
            name = f"timings.{self.host.version}.{'_'.join(self.host.capabilities)}.cache"
            timings = plan.parent / name  # whose lock we hold
        onnx = self.bundle.read(engine.onnx[precision])  # the bytes that the fingerprint names
        if self.options.batch > 1:
            onnx = with_batch(onnx, self.options.batch, engine, precision)
        file = AtomicFile(plan, inside=plan.parent)
        file.create()
        job = Job(
            module=self.host.module,
            onnx=onnx,
            options=self.options_of(engine),
            part=file.part,
            timings=timings,
        )
        where = f"engine {engine.id} ({precision}): {NAMES[self.target.backend]} {self.host.version}"
        begun = time.monotonic()
        try:
            made = build_apart(job, where, on_phase)
            sidecar = Sidecar(
                schema=SCHEMA,
                engine=engine.id,
                fingerprint=fingerprint,
                plan_sha256=made.sha256,
                plan_size_bytes=made.size_bytes,
                target=self.target.name,
                platform=f"{sys.platform}-{platform.machine()}",
                driver=self.host.driver,
                build_s=round(time.monotonic() - begun, 3),
            )
            publish(file, sidecar)
        finally:
            file.discard()
        return sidecar


def choose(bundle: Bundle, target: Target, wanted: Sequence[str]) -> list[Precision]:
    """The precisions to build, in their usual order."""
    engines = bundle.manifest.engines
    there = [name for name in target.precisions if all(name in engine.onnx for engine in engines)]
    for name in wanted:
        if name not in there:
            raise UsageError(
                f"precision: {name!r} can't be built for {target.name}: bundle {bundle.folder} has "
                f"{', '.join(there)}; add one with 'edge-export precision'"
            )
    return [name for name in there if not wanted or name in wanted]
