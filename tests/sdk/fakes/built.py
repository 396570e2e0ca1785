"""Engines for the fake TensorRT, where the runtime looks for built ones: a plan is the ONNX file itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from export.tensorrt.rebatch import with_batch
from sdk.backends.plan_store import (
    SCHEMA,
    EngineBackend,
    Fingerprint,
    Sidecar,
    built_engines,
    make_cache_folder,
    plan_path,
)
from sdk.bundle import Bundle, sha256_of


def write_engines(
    bundle: Bundle,
    *,
    backend: EngineBackend = "tensorrt",
    version: str = "10.3.0",
    gpu: str | None = "Fake Orin",
    capabilities: tuple[str, ...] = ("8.7",),
    multiprocessors: int | None = None,
    plans: Mapping[str, bytes] | None = None,
    batch: int = 1,
) -> Path:
    """'Build' every engine of ``bundle`` into the user's cache; ``plans`` replaces some by id.

    ``batch`` builds those for so many images at a time.
    """
    options: dict[str, int | str] = {} if batch == 1 else {"batch": batch}
    folder = make_cache_folder(bundle)
    for engine in bundle.manifest.engines:
        for precision, file in engine.onnx.items():
            fingerprint = Fingerprint(
                *(backend, version, file.sha256, precision, capabilities, gpu, None, multiprocessors),
                options=options,
            )
            path = plan_path(folder, engine.id, fingerprint)
            plan = (plans or {}).get(engine.id) or bundle.path(file).read_bytes()
            path.write_bytes(plan if batch == 1 else with_batch(plan, batch, engine, precision))
            sidecar = Sidecar(
                schema=SCHEMA,
                engine=engine.id,
                fingerprint=fingerprint,
                plan_sha256=sha256_of(path),
                plan_size_bytes=path.stat().st_size,
                target="local",
                platform="test",
                driver=None,
                build_s=0.1,
            )
            path.with_suffix(".json").write_bytes(msgspec.json.encode(sidecar))
    return folder


def plan_of(bundle: Bundle, folder: Path, engine_id: str) -> Path:
    return next(built_engines(folder, engine_id, "fp32")).plan
