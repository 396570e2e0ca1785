"""The checks on a bundle: golden outputs replayed, and every engine against its twin where torch is there."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from export.gate import BOUND, Deviation, gate
from export.golden import Golden, replay
from sdk.backends import open_backend
from sdk.bundle import Bundle

N_IMAGES = 64


@dataclass(frozen=True)
class Verification:
    """What was compared, through which backend; ``without_twin`` says why the twin was left out, if so."""

    backend: str
    deviations: tuple[Deviation, ...]
    without_twin: str | None = None


def verify(bundle: Bundle, *, n_images: int = N_IMAGES) -> Verification:
    """Run every engine as the runtime runs it, and hold it to ``BOUND``; opening has checked the integrity.

    Raises:
        GateError: naming the engine that is off.
        BackendError: an engine can't be loaded or run.
        BundleError: the golden outputs or the twin can't be read.
    """
    backend = open_backend(bundle, "onnxruntime", "fp32")
    try:
        deviations = replay(bundle, backend, Golden.load(bundle))
        gate(deviations, BOUND)
        without_twin = _why_without_twin(bundle)
        if without_twin is None:
            # torch is imported only here, so that a device without it can verify a bundle too
            from export.parity import parity
            from trainer.twin import read_twin

            deviations += parity(bundle, backend, read_twin(bundle), n_images=n_images)
            gate(deviations, BOUND)
    finally:
        backend.close()
    return Verification(f"{backend.name} {backend.version}", tuple(deviations), without_twin)


def _why_without_twin(bundle: Bundle) -> str | None:
    if bundle.manifest.twin is None:
        return "the bundle has no twin"
    if find_spec("torch") is None or find_spec("safetensors") is None:
        return "torch isn't installed: pip install 'edge-purify[export]'"
    return None
