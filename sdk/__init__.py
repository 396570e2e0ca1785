"""edge-purify: purify adversarial images and classify them, with a random engine drawn for every frame.

    from sdk import Purifier

    with Purifier.load() as purifier:
        result = purifier(frame)  # HxWx3 uint8 BGR, as OpenCV gives it
        print(result.label, result.score)

Names are imported when they are first used, so ``import sdk`` loads neither numpy, OpenCV nor an inference
engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sdk.errors import (
    BackendError,
    BundleError,
    EdgePurifyError,
    GateError,
    SinkError,
    SourceError,
    UsageError,
)

if TYPE_CHECKING:
    from sdk.bundle import Bundle
    from sdk.draw import Draw
    from sdk.purifier import Purifier
    from sdk.result import Result, Timings, Undefended
    from sdk.sources.roi import Roi

    __version__: str

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "Draw",
    "EdgePurifyError",
    "GateError",
    "Purifier",
    "Result",
    "Roi",
    "SinkError",
    "SourceError",
    "Timings",
    "Undefended",
    "UsageError",
    "__version__",
]

_HOMES = {
    "Bundle": "sdk.bundle",
    "Draw": "sdk.draw",
    "Purifier": "sdk.purifier",
    "Result": "sdk.result",
    "Roi": "sdk.sources.roi",
    "Timings": "sdk.result",
    "Undefended": "sdk.result",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, and rarely wanted

        return version("edge-purify")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sdk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
