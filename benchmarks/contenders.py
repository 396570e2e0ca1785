"""The sides of ``peers.py``: how a user calls each, its sessions alone, and what it does to the pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import numpy as np

from sdk import Purifier
from sdk.arrays import Pixels
from sdk.backends.golden import Golden
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.benchmark.subject import Subject, natural_frame
from sdk.benchmark.turns import Bare, Milliseconds, centre
from sdk.bundle import Bundle
from sdk.errors import BackendError

Call = Callable[[Pixels], str]


class Contender(NamedTuple):
    """One side.

    Attributes:
        call: a frame's label, as the side's user gets it.
        network: runs the side's own sessions directly on inputs that are ready; their milliseconds.
        preprocessing: what it does to a frame.
        aliases: whether it skips pixels when it shrinks a frame.
    """

    call: Call
    network: Callable[[], Milliseconds]
    preprocessing: str
    aliases: bool


def ours(bundle: Bundle, frame_size: tuple[int, int]) -> Contender:
    """The whole defence: its networks are a random purifier and a random classifier."""
    backend = OnnxRuntimeBackend(bundle)
    purifier = Purifier(bundle, backend)
    bare = Bare(Subject(bundle, backend, "fp32", natural_frame(*frame_size), votes=1, frames=1), votes=1)

    def network() -> Milliseconds:
        spent = bare()
        return {"network": spent["purify"] + spent["classify"]}

    preprocessing = "centre square, INTER_AREA by an integer factor: every pixel weighs"
    return Contender(lambda frame: str(purifier(frame).label), network, preprocessing, aliases=False)


def ultralytics(bundle: Bundle, folder: Path) -> Contender:
    """``YOLO(onnx).predict(frame)`` for classification, as it comes."""
    os.environ.setdefault("YOLO_OFFLINE", "1")  # it asks the network for updates
    os.environ.setdefault("YOLO_AUTOINSTALL", "0")
    os.environ.setdefault("YOLO_VERBOSE", "0")
    try:
        from ultralytics import YOLO
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that doesn't fit the torch
        raise _absent("ultralytics", error) from None
    image = bundle.manifest.image
    names = dict(enumerate(bundle.labels))
    size = [image.height, image.width]
    metadata = {"task": "classify", "names": str(names), "imgsz": str(size), "stride": "1", "batch": "1"}
    model = YOLO(str(_labelled(bundle, folder / "ultralytics.onnx", metadata)), task="classify")

    def call(frame: Pixels) -> str:
        (result,) = model.predict(frame, imgsz=size, verbose=False)
        return str(result.names[result.probs.top1])

    call(natural_frame(64, 64))  # which opens the session
    session = model.predictor.model.backend.session
    preprocessing = "whole frame, PIL's bilinear, which weighs every pixel; then crop, and torch"
    return Contender(call, _network(session, bundle), preprocessing, aliases=False)


def model_api(bundle: Bundle, folder: Path) -> tuple[Contender, Contender]:
    """``ClassificationModel(frame)`` over ONNX Runtime: as it comes, and with an area resize before.

    It offers bilinear, bicubic and nearest, all of which skip pixels when they shrink. Who wants an
    anti-aliased image shrinks the centre square first.
    """
    try:
        from model_api.adapters import ONNXRuntimeAdapter
        from model_api.models import ClassificationModel
    except ImportError as error:
        raise _absent("openvino-model-api", error) from None
    logging.getLogger("model_api").setLevel(logging.ERROR)
    info = {
        "model_type": "Classification",
        "labels": " ".join(label.replace(" ", "_") for label in bundle.labels),
        "resize_type": "crop",
        "reverse_input_channels": "True",
        "scale_values": "255 255 255",
    }
    metadata = {f"model_info {key}": value for key, value in info.items()}
    path = _labelled(bundle, folder / "model_api.onnx", metadata)
    adapter = ONNXRuntimeAdapter(str(path), ort_options={"providers": ["CPUExecutionProvider"]})
    model = ClassificationModel(adapter, preload=True)
    image = bundle.manifest.image

    def call(frame: Pixels) -> str:
        return bundle.labels[model(frame).top_labels[0].id]

    def call_area(frame: Pixels) -> str:
        return call(_square(frame, image.width, image.height))

    network = _network(adapter.session, bundle)
    return (
        Contender(
            call,
            network,
            "centre square, OpenCV's bilinear: four pixels around each sample, no others",
            aliases=True,
        ),
        Contender(
            call_area,
            network,
            "centre square, one plain INTER_AREA: every pixel weighs; then its own steps",
            aliases=False,
        ),
    )


def check_wiring(bundle: Bundle, name: str, call: Call, frame_size: tuple[int, int]) -> None:
    """Raise a ``BackendError`` unless a side sees in enlarged pictures what the bare classifier does."""
    session = OnnxRuntimeBackend(bundle).bare_sessions()[1][0]
    width, height = frame_size
    side = min(frame_size)
    for picture in Golden.load(bundle).images:  # (3, H, W) RGB
        frame = np.zeros((height, width, 3), np.uint8)
        bgr = np.ascontiguousarray(picture[::-1].transpose(1, 2, 0))
        centre(frame, side, side)[:] = cv2.resize(bgr, (side, side), interpolation=cv2.INTER_CUBIC)
        logits = session.run(None, {"image": picture[None].astype(np.float32) / 255})[0]
        expected, got = bundle.labels[int(logits.argmax())], call(frame)
        if got != expected:
            raise BackendError(f"{name}: expected {expected!r} for a golden picture, got {got!r}")


def _network(session: Any, bundle: Bundle) -> Callable[[], Milliseconds]:
    image = bundle.manifest.image
    feeds = {"image": np.full((1, 3, image.height, image.width), 0.5, np.float32)}

    def network() -> Milliseconds:
        start = perf_counter()
        session.run(None, feeds)
        return {"network": (perf_counter() - start) * 1e3}

    return network


def _square(frame: Pixels, width: int, height: int) -> Pixels:
    """The frame's largest centred square by a plain ``INTER_AREA``."""
    side = min(frame.shape[:2])
    pixels: Pixels = cv2.resize(centre(frame, side, side), (width, height), interpolation=cv2.INTER_AREA)
    return pixels


def _labelled(bundle: Bundle, path: Path, metadata: dict[str, str]) -> Path:
    """A copy of the bundle's first classifier with the metadata that a peer reads."""
    try:
        import onnx
    except ImportError as error:
        raise _absent("onnx", error) from None
    model = onnx.load(bundle.path(bundle.manifest.classifiers[0].onnx["fp32"]))
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def _absent(package: str, error: Exception) -> BackendError:
    reason = " ".join(str(error).split())
    return BackendError(
        f"{package} can't be imported ({reason})",
        hint="pip install -r benchmarks/requirements.txt, in an environment of its own",
    )
