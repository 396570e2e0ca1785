"""edge-purify: purify adversarial images and classify them, with a random engine drawn for every frame.

    from sdk import Purifier

    with Purifier.load() as purifier:
        result = purifier(frame)  # HxWx3 uint8 BGR, as OpenCV gives it
        print(result.label, result.score)

Names are imported when they are first used, so ``import sdk`` loads neither numpy, OpenCV nor an inference
engine.
"""

from __future__ import annotations

from sdk.host import children

if children.is_run_as_module():  # before anything is imported that could lie in the working directory
    children.forget_working_directory()

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
from sdk.host import telemetry

if TYPE_CHECKING:
    from sdk.bundle import Bundle, default_bundle
    from sdk.draw import Draw
    from sdk.loop import run
    from sdk.meter import Meter, Summary
    from sdk.purifier import Purifier
    from sdk.result import Result, Timings, Undefended
    from sdk.sinks import AnnotatedImages, AnnotatedVideo, JsonLines, Sink, Watchdog, Window
    from sdk.sinks.preview import Address, Preview
    from sdk.sources import Frame, Roi, Source, open_source

    __version__: str

telemetry.disable()  # before any inference engine is imported

__all__ = [
    "Address",
    "AnnotatedImages",
    "AnnotatedVideo",
    "BackendError",
    "Bundle",
    "BundleError",
    "Draw",
    "EdgePurifyError",
    "Frame",
    "GateError",
    "JsonLines",
    "Meter",
    "Preview",
    "Purifier",
    "Result",
    "Roi",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "Summary",
    "Timings",
    "Undefended",
    "UsageError",
    "Watchdog",
    "Window",
    "__version__",
    "default_bundle",
    "open_source",
    "run",
]

_HOMES = {
    "Address": "sdk.sinks.preview",
    "AnnotatedImages": "sdk.sinks",
    "AnnotatedVideo": "sdk.sinks",
    "Bundle": "sdk.bundle",
    "Draw": "sdk.draw",
    "Frame": "sdk.sources",
    "JsonLines": "sdk.sinks",
    "Meter": "sdk.meter",
    "Preview": "sdk.sinks.preview",
    "Purifier": "sdk.purifier",
    "Result": "sdk.result",
    "Roi": "sdk.sources",
    "Sink": "sdk.sinks",
    "Source": "sdk.sources",
    "Summary": "sdk.meter",
    "Timings": "sdk.result",
    "Undefended": "sdk.result",
    "Watchdog": "sdk.sinks",
    "Window": "sdk.sinks",
    "default_bundle": "sdk.bundle",
    "open_source": "sdk.sources",
    "run": "sdk.loop",
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
