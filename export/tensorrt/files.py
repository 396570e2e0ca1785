"""Built engines on disk: the folder and its lock, plans with their sidecars, the bundle's list of them.

A bundle's folder may be a stranger's: nothing is written through a link in it, and its manifest gets the
hashes of the bytes that were built.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sdk.backends.plan_store import Sidecar, bundle_folder, make_cache_folder
from sdk.bundle import Bundle, File, write_manifest
from sdk.errors import BundleError
from sdk.files import AtomicFile, lock_file, remove_stale_parts, replacing


def make_folder(bundle: Bundle, into_bundle: bool) -> Path:
    if not into_bundle:
        return make_cache_folder(bundle)
    folder = bundle_folder(bundle)
    if folder.is_symlink():
        raise BundleError(
            f"bundle {bundle.folder}: {folder.name!r} is a link, and nothing is written through one",
            hint="don't use this bundle",
        )
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the folder's lock, which the kernel frees when this process ends, and clear what a kill left."""
    with lock_file(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        remove_stale_parts(folder, older_than_s=0.0)
        yield


def publish(plan: AtomicFile, sidecar: Sidecar) -> None:
    """Put plan and sidecar in place, so that a sidecar never stands beside another plan than its own."""
    path = plan.path.with_suffix(".json")
    with replacing(path, inside=path.parent) as stream:
        stream.write(encoded(sidecar))
        stream.flush()
        path.unlink(missing_ok=True)
        plan.finish()


def encoded(sidecar: Sidecar) -> bytes:
    """A sidecar's file."""
    return msgspec.json.format(msgspec.json.encode(sidecar), indent=1) + b"\n"


def listing(bundle: Bundle, made: Mapping[str, Sidecar]) -> Bundle:
    """List the engines that were built into the bundle's folder, by their plans' paths, in its manifest.

    What was reused is listed already. A bundle that was signed before is unsigned then.
    """
    plans = {file.file: file for file in bundle.manifest.plans if bundle.path(file).is_file()}
    for path, sidecar in made.items():  # by the hashes of what was built, not of what lies there by now
        name = Path(path).relative_to(bundle.folder).as_posix()
        beside = name.removesuffix(".plan") + ".json"
        plans[name] = File(name, sidecar.plan_sha256)
        plans[beside] = File(beside, hashlib.sha256(encoded(sidecar)).hexdigest())
    listed = tuple(plans[name] for name in sorted(plans))
    if listed == bundle.manifest.plans:
        return bundle
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, plans=listed))
    return Bundle.open(bundle.folder)
