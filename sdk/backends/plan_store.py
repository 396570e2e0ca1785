"""Built engines on disk: what each was made from and for, where it lies, and which one this host may load.

An engine is derived and disposable. It lies in a per-user cache, or beside the bundle's ONNX files, as a
plan (the bytes that TensorRT deserializes) and a ``.json`` sidecar with its fingerprint and the plan's
sha256. The builder writes by these rules and the runtime looks up by them.

Loading a plan runs code. So the cache must belong to the user alone, ``BuiltEngine.read`` checks
the plan's sha256 before anyone sees its bytes, and of the engines inside a bundle only those count that
``bundle.json`` lists, which its signature covers: a file that someone adds to the folder is never run.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sdk.bundle import Bundle, Engine, Precision
from sdk.choices import ENGINE_NAMES
from sdk.choices import EngineBackend as EngineBackend
from sdk.errors import BackendError, BundleError
from sdk.host.cache import cache_root, check_private, make_private

SCHEMA = 1
FOLDER = "engines"  # inside a bundle, and inside the cache
NAMES = ENGINE_NAMES


class Fingerprint(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that an engine's bytes depend on; two engines of one fingerprint are interchangeable.

    ``capabilities`` are the compute capabilities it runs on: "8.7", or "8.0+" for 8.0 and later. ``gpu`` is
    the GPU's model; TensorRT ties an engine to it, TensorRT-RTX doesn't and leaves it None. ``board`` is the
    Jetson that it is on, where that could be told: an AGX's GPU and a Nano's share one name; so
    ``multiprocessors``, their number, tells them apart too.
    """

    backend: EngineBackend
    version: str
    onnx_sha256: str
    precision: Precision
    capabilities: tuple[str, ...]
    gpu: str | None = None
    board: str | None = None
    multiprocessors: int | None = None
    options: dict[str, int | str] = {}

    def __post_init__(self) -> None:
        if not all(re.fullmatch(r"\d+\.\d+\+?", entry) for entry in self.capabilities):
            raise ValueError(
                f"capabilities: expected entries like 8.7 or 8.0+, got {list(self.capabilities)}"
            )

    @property
    def key(self) -> str:
        """Sha256 of all fields, in lower-case hex; independent of the options' order."""
        fields = msgspec.to_builtins(self)
        if self.multiprocessors is None:  # keys from before there was this field stay as they were
            del fields["multiprocessors"]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Sidecar(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What lies beside a plan; the fields after ``plan_size_bytes`` are recorded and never compared."""

    schema: int
    engine: str
    fingerprint: Fingerprint
    plan_sha256: str
    plan_size_bytes: int
    target: str
    platform: str
    driver: str | None
    build_s: float


@dataclass(frozen=True)
class Host:
    """What is about to load engines: the backend, its full version, and the GPU.

    ``compute_capability`` is like "8.7"; ``board`` is None on other machines than Jetsons, and in containers
    that don't say.
    """

    backend: EngineBackend
    version: str
    gpu: str
    compute_capability: str
    board: str | None = None
    multiprocessors: int = 0


@dataclass(frozen=True)
class BuiltEngine:
    """A plan and its sidecar, as they lie on disk."""

    plan: Path
    sidecar: Sidecar

    @property
    def batch(self) -> int:
        """Images that it takes at a time."""
        batch = self.sidecar.fingerprint.options.get("batch", 1)
        return batch if isinstance(batch, int) else 0

    def read(self) -> bytes:
        """The plan's bytes, once they are known to be those that were built.

        Raises:
            BackendError: the plan is missing, can't be read, or isn't the one that the sidecar names.
        """
        try:
            data = self.plan.read_bytes()
        except OSError as error:
            raise BackendError(
                f"engine {self.sidecar.engine} ({self.plan}): can't be read: {error.strerror}",
                hint="build it again with 'edge-export engines'",
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if found != self.sidecar.plan_sha256:
            raise BackendError(
                f"engine {self.sidecar.engine} ({self.plan}): damaged or changed: expected sha256 "
                f"{self.sidecar.plan_sha256[:12]}…, got {found[:12]}…; not loaded, since an engine is code",
                hint="build it again with 'edge-export engines'",
            )
        return data


def find_engine(
    bundle: Bundle, engine: Engine, precision: Precision, host: Host, *, batch: int = 1
) -> BuiltEngine:
    """The engine that ``host`` may load: built from this very ONNX file, for this version and GPU.

    ``batch`` is how many images it takes at a time. Engines that the manifest lists come before those in the
    cache; among several, the last built or reused is taken.

    Raises:
        BackendError: there is none; the message says what differs in the nearest, and how to build it. Or
            none is in the bundle, and the cache can't be used, or others may write to it.
    """
    sha256 = engine.onnx[precision].sha256
    differing: list[tuple[list[str], BuiltEngine]] = []
    for engines in _trusted(bundle, engine.id, precision):
        for built in _newest_first(engines):
            differences = _differences(built.sidecar.fingerprint, sha256, host)
            if not differences and built.batch == batch:
                return built
            differing += [(differences, built)] if built.batch == batch else []
    what = f"engine {engine.id} ({precision}): "
    if differing:
        differences, nearest = min(differing, key=lambda entry: len(entry[0]))
        what += f"{nearest.plan} was built for {' and '.join(differences)}"
    else:
        what += f"none was built for {NAMES[host.backend]} yet"
    if _has_unlisted(bundle, engine.id, precision):
        what += f", and what lies in {bundle_folder(bundle)} is code that bundle.json doesn't list"
    raise BackendError(what, hint=f"build it: {build_command(bundle, host.backend, precision)}")


def built_engines(folder: Path, engine_id: str, precision: Precision) -> Iterator[BuiltEngine]:
    """Every engine in ``folder`` of that id and precision; a sidecar that can't be read counts as none.

    The caller must ensure that ``folder`` is trusted.
    """
    for path in folder.glob(f"{_stem(engine_id, precision)}.*.json"):
        try:
            sidecar = _decode(path.read_bytes(), engine_id, precision)
        except OSError:
            continue
        if sidecar is not None:
            yield BuiltEngine(path.with_suffix(".plan"), sidecar)


def plan_path(folder: Path, engine_id: str, fingerprint: Fingerprint) -> Path:
    """Where the plan of that fingerprint lies in ``folder``; its sidecar has the same name with ``.json``."""
    return folder / f"{_stem(engine_id, fingerprint.precision)}.{fingerprint.key[:16]}.plan"


def bundle_folder(bundle: Bundle) -> Path:
    """Where engines lie inside a bundle."""
    return bundle.folder / FOLDER


def cache_folder(bundle: Bundle) -> Path:
    """Where a bundle's engines lie in the user's cache; bundles of one name share it."""
    return cache_root() / FOLDER / slug(bundle.manifest.name)


def make_cache_folder(bundle: Bundle) -> Path:
    """Create the bundle's cache folder, for this user alone.

    Raises:
        BackendError: others may write to the cache.
        OSError: it can't be created.
    """
    folder = cache_folder(bundle)
    make_private(folder)
    return folder


def covers(capabilities: tuple[str, ...], compute_capability: str) -> bool:
    """Whether a GPU of ``compute_capability`` ("8.7") is among ``capabilities`` ("8.7", or "8.0+")."""
    return any(
        _number(entry[:-1]) <= _number(compute_capability)
        if entry.endswith("+")
        else entry == compute_capability
        for entry in capabilities
    )


def build_command(bundle: Bundle, backend: EngineBackend, precision: Precision) -> str:
    """The command that builds a bundle's engines for this host."""
    target = "rtx" if backend == "tensorrt-rtx" else "local"
    folder = shlex.quote(str(bundle.folder))
    return f"edge-export engines {folder} --target {target} --precision {precision}"


def listed_engines(bundle: Bundle, engine_id: str, precision: Precision) -> Iterator[BuiltEngine]:
    """Every engine of that id and precision inside the bundle whose plan and sidecar the manifest lists.

    One that is absent, or isn't what the manifest says, counts as none.
    """
    stem = f"{FOLDER}/{_stem(engine_id, precision)}."
    for file in bundle.manifest.plans:
        if not (file.file.startswith(stem) and file.file.endswith(".json")):
            continue
        plan = bundle.listed(file.file.removesuffix(".json") + ".plan")
        try:
            sidecar = _decode(bundle.read(file), engine_id, precision)
        except BundleError:
            continue
        if sidecar is not None and plan is not None and plan.sha256 == sidecar.plan_sha256:
            yield BuiltEngine(bundle.path(plan), sidecar)


def _trusted(bundle: Bundle, engine_id: str, precision: Precision) -> Iterator[Iterator[BuiltEngine]]:
    """The engines that may be loaded, by place, the first choice first.

    The cache is looked at last, so that engines inside the bundle need none.

    Raises:
        BackendError: it can't be used, or others may write to it.
    """
    yield listed_engines(bundle, engine_id, precision)
    check_private(cache_root())
    yield built_engines(cache_folder(bundle), engine_id, precision)


def _has_unlisted(bundle: Bundle, engine_id: str, precision: Precision) -> bool:
    listed = {file.file for file in bundle.manifest.plans}
    found = bundle_folder(bundle).glob(f"{_stem(engine_id, precision)}.*.plan")
    return any(f"{FOLDER}/{path.name}" not in listed for path in found)


def _decode(content: bytes, engine_id: str, precision: Precision) -> Sidecar | None:
    """A sidecar, if it is one of that engine and precision."""
    try:
        sidecar = msgspec.json.decode(content, type=Sidecar)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    is_its = (sidecar.schema, sidecar.engine, sidecar.fingerprint.precision) == (SCHEMA, engine_id, precision)
    return sidecar if is_its else None


def _differences(built: Fingerprint, onnx_sha256: str, host: Host) -> list[str]:
    """What bars ``host`` from loading the engine, each as 'this, not that'; empty if nothing does."""
    found = []
    if built.onnx_sha256 != onnx_sha256:
        found.append(f"the ONNX file {built.onnx_sha256[:12]}…, not the bundle's {onnx_sha256[:12]}…")
    if (built.backend, built.version) != (host.backend, host.version):
        found.append(
            f"{NAMES[built.backend]} {built.version}, not this host's {NAMES[host.backend]} {host.version}"
        )
    if built.gpu is not None and built.gpu != host.gpu:
        found.append(f"the GPU {built.gpu}, not this host's {host.gpu}")
    if None not in (built.board, host.board) and built.board != host.board:
        found.append(f"the board {built.board}, not this host's {host.board}")
    if built.multiprocessors and host.multiprocessors not in (0, built.multiprocessors):
        found.append(
            f"a GPU of {built.multiprocessors} multiprocessors, not this host's of {host.multiprocessors}"
        )
    if not covers(built.capabilities, host.compute_capability):
        wanted = ", ".join(built.capabilities)
        found.append(f"compute capability {wanted}, not this host's {host.compute_capability}")
    return found


def _newest_first(engines: Iterator[BuiltEngine]) -> list[BuiltEngine]:
    def changed(built: BuiltEngine) -> int:
        try:
            return built.plan.stat().st_mtime_ns
        except OSError:
            return 0

    return sorted(engines, key=changed, reverse=True)


def _stem(engine_id: str, precision: str) -> str:
    return f"{slug(engine_id)}.{precision}"


def slug(text: str) -> str:
    """``text`` as a harmless file name: itself, or, where that has other characters, told apart by a hash."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}", text):
        return text
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40]
    return f"{clean}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _number(capability: str) -> tuple[int, int]:
    major, minor = capability.split(".")
    return int(major), int(minor)
