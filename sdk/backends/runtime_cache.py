"""Runtime cache of TensorRT-RTX: the kernels that one start compiled for this GPU, kept for the next start.

TensorRT-RTX compiles an engine's kernels on the device that runs it; without a cache, every start compiles
those of all engines again. One cache serves all engines of a bundle. It lies beside the engines in the user's
cache, never in the bundle, under a key of GPU, library version and plans. The file is a SHA-256 and the bytes
that TensorRT-RTX serialized, so that it never sees a damaged one. A cache that can't be read, doesn't fit or
can't be written costs time alone, so it is reported in the log and nothing fails.

*Not executed on a GPU*: its calls are tested against strict fakes, see ``sdk.backends.tensorrt``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdk.backends.plan_store import Host, make_cache_folder
from sdk.bundle import Bundle
from sdk.errors import BackendError
from sdk.files import write_atomically

DIGEST_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger("sdk")


class RuntimeCache:
    """The compiled kernels of the engines of one bundle on one GPU.

    Args:
        path: of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cache: Any = None
        self._kept = b""  # what the file holds

    def config(self, engine: Any, strategy: Any) -> Any:
        """A runtime configuration for a context of ``engine``, over this cache; None where there is none.

        Args:
            engine: an ``ICudaEngine`` of TensorRT-RTX.
            strategy: an ``ExecutionContextAllocationStrategy``.
        """
        if self._path is None:
            return None
        config = engine.create_runtime_config()
        if config is None:
            return None
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._load()
        config.set_execution_context_allocation_strategy(strategy)
        return config if self._cache is not None and config.set_runtime_cache(self._cache) else None

    def keep(self) -> None:
        """Write what was compiled since the file was read; nothing is written if that is nothing."""
        serialized = None if self._cache is None else self._cache.serialize()
        if self._path is None or serialized is None:
            return
        blob = bytes(serialized)
        if blob in (b"", self._kept):
            return
        try:
            write_atomically(self._path, hashlib.sha256(blob).digest() + blob)
        except OSError as error:
            _log.warning(
                "%s: compiled kernels can't be kept: %s; the next start compiles again",
                *(self._path, error.strerror),
            )
        else:
            self._kept = blob

    def close(self) -> None:
        """Release the cache, on the GPU thread, after the contexts that use it."""
        self._cache = None

    def _load(self) -> None:
        assert self._path is not None
        if self._cache is None:
            return
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self._ignore(f"can't be read: {error.strerror}")
            return
        digest, blob = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(blob).digest() != digest:
            self._ignore("damaged")
        elif not self._cache.deserialize(blob):
            self._ignore("of another driver or library")
        else:
            self._kept = blob

    def _ignore(self, why: str) -> None:
        _log.warning("%s: cache of compiled kernels: %s; they are compiled again", self._path, why)


def runtime_cache(bundle: Bundle, host: Host, plans: Iterable[str]) -> RuntimeCache:
    """The cache for a bundle's engines on ``host``; one that keeps nothing where the folder can't be used.

    Args:
        plans: the SHA-256 of each engine's plan.
    """
    key = [host.version, host.gpu, host.compute_capability, host.multiprocessors, sorted(plans)]
    name = f"kernels.{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.cache"
    try:
        return RuntimeCache(make_cache_folder(bundle) / name)
    except (BackendError, OSError) as error:
        _log.warning("compiled kernels aren't kept, and the next start compiles again: %s", error)
        return RuntimeCache(None)
