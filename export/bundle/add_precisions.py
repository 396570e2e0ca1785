"""Give a bundle engines of lower precisions: converted, held to the FP32 engines, and recorded."""

from __future__ import annotations

import importlib.metadata
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from export.bundle.card import with_precisions
from export.bundle.goldens import add_goldens
from export.bundle.staging import copy_bundle, staged
from export.checks.outcome import Verification
from export.checks.verify import N_IMAGES, CompareFp32, OnStep, verify
from export.inputs.calibration import (
    HELD_OUT,
    N_ACCURACY,
    Feeds,
    Pictures,
    attacked_images,
    engine_feeds,
    from_dataset,
    purified_images,
    self_made,
)
from export.precision.weight_storage import expanded
from sdk.backends import open_backend
from sdk.backends.plan_store import slug
from sdk.bundle import Bundle, Engine, File, Manifest, Precision, write_file, write_manifest
from sdk.choices import GraphKind
from sdk.errors import EdgePurifyError, UsageError

if TYPE_CHECKING:
    from export.precision.search import Scheme

Origins = dict[Precision, dict[str, Any]]  #: by precision, what its engines were made by


@dataclass(frozen=True)
class Lowering:
    """What a bundle gets beside FP32, and the images that this is calibrated and judged on.

    Attributes:
        precisions: "fp16" and "int8", or one of them, or none.
        data: folder of the data set; None calibrates on self-made pictures and leaves accuracy unmeasured.
        dataset: its name; None takes the one that the bundle was trained on.
        attacked: a record of ``edge-train evaluate --record`` on images of ``data``, for the robust
            accuracy's gate.
        n_accuracy: at most so many test images.
    """

    precisions: tuple[Precision, ...] = ()
    data: Path | None = None
    dataset: str | None = None
    attacked: Path | None = None
    n_accuracy: int = N_ACCURACY

    def steps(self, n_engines: int) -> int:
        """How many steps it takes to convert and verify a bundle of ``n_engines``."""
        return n_engines * len(self.precisions) + 1 + len(self.precisions)

    def pictures(self, bundle: Bundle) -> Pictures:
        """The images for ``bundle``; see ``export.inputs.calibration`` for what may be wrong with them."""
        if self.data is None:
            pictures = self_made(bundle.manifest)
        else:
            pictures = from_dataset(bundle, self.data, self.dataset, n_accuracy=self.n_accuracy)
        if self.attacked is None:
            return pictures
        if self.data is None:
            raise UsageError(
                "--attacked: needs --data, the folder of the data set whose images were attacked"
            )
        attacked = attacked_images(bundle, self.attacked, self.data, self.dataset)
        return Pictures(pictures.says, pictures.calibration, (*pictures.labelled, *attacked))


def lower_bundle(
    folder: Path,
    lowering: Lowering,
    *,
    n_images: int = N_IMAGES,
    report: Path | None = None,
    on_step: OnStep = lambda step: None,
) -> Verification:
    """Add the precisions of ``lowering`` to the bundle in ``folder``, all of them and verified, or none.

    Those that it has already are made again.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        EdgePurifyError: the images can't be had, a graph can't be converted, or the folder can't be written.
        GateError: an engine is off, or costs too much accuracy; the bundle is as it was.
    """
    bundle = Bundle.open(folder)
    try:
        with staged(bundle.folder.resolve(), force=True) as new:
            copy_bundle(bundle, new)
            return add_precisions(new, lowering, n_images=n_images, report=report, on_step=on_step)
    except OSError as error:
        raise EdgePurifyError(f"{folder}: can't be written: {error.strerror or error}") from error


def add_precisions(
    folder: Path,
    lowering: Lowering,
    *,
    n_images: int,
    report: Path | None,
    on_step: OnStep,
    compare_fp32: CompareFp32 | None = None,
) -> Verification:
    """The same, in place: for a folder that nobody uses yet. Without any precision, it is only verified."""
    bundle = Bundle.open(folder)
    if not lowering.precisions:
        return verify(bundle, n_images=n_images, report=report, on_step=on_step, compare_fp32=compare_fp32)
    pictures = lowering.pictures(bundle)
    made = _convert(bundle, lowering.precisions, pictures, on_step)
    lowered = Bundle.open(folder)
    found = verify(
        lowered,
        n_images=n_images,
        labelled=pictures.labelled,
        report=report,
        on_step=on_step,
        compare_fp32=compare_fp32,
    )
    _record(lowered, made, found)
    if pictures.labelled:  # else the golden outputs of FP32 have been held to them
        add_goldens(Bundle.open(folder), lowering.precisions)
    Bundle.open(folder)
    return found


def _convert(
    bundle: Bundle, precisions: tuple[Precision, ...], pictures: Pictures, on_step: OnStep
) -> Origins:
    """Write every engine's files and the manifest that names them; by precision, where they come from."""
    from export.precision.search import CPU  # needs onnx

    manifest = bundle.manifest
    with closing(open_backend(bundle, "onnxruntime", "fp32")) as backend:
        purified = purified_images(manifest, backend, pictures.calibration)
    engines: Origins = {precision: {} for precision in precisions}
    for_cpus: dict[str, Any] = {}

    def written(path: str, data: bytes) -> File:
        (bundle.folder / path).parent.mkdir(exist_ok=True)
        return write_file(bundle.folder, path, data)

    def lowered(engine: Engine, images: Any, role: str) -> Engine:
        feeds = engine_feeds(manifest, engine, images)
        files, cpu = dict(engine.onnx), dict(engine.cpu)
        for precision in precisions:
            on_step(f"{engine.id} {precision}")
            data, engines[precision][engine.id] = _engine(bundle, engine, precision, feeds)
            files[precision] = written(f"onnx/{slug(engine.id)}.{precision}.onnx", data)
            if precision == "int8" and role == "purifier":
                # transposed convolutions have no integer kernel: in INT8 a purifier would take longer
                cpu[precision], for_cpus[engine.id] = engine.onnx["fp32"], {"graph": "fp32"}
            elif precision == "int8":
                data, for_cpus[engine.id] = _int8(bundle, engine, feeds, CPU)
                cpu[precision] = written(f"onnx/{slug(engine.id)}.{precision}.cpu.onnx", data)
        return msgspec.structs.replace(engine, onnx=files, cpu=cpu)

    changed = msgspec.structs.replace(
        manifest,
        purifiers=tuple(lowered(engine, pictures.calibration, "purifier") for engine in manifest.purifiers),
        classifiers=tuple(lowered(engine, purified, "classifier") for engine in manifest.classifiers),
    )
    write_manifest(bundle.folder, without_stale_figures(manifest, changed))
    tools = {
        package: importlib.metadata.version(package) for package in ("edge-purify", "onnx", "onnxruntime")
    }
    return {
        precision: {
            "calibrated_on": pictures.says,
            "tools": tools,
            "engines": engines[precision],
            **({"cpu": {"engines": for_cpus}} if precision == "int8" else {}),
        }
        for precision in precisions
    }


def without_stale_figures(before: Manifest, after: Manifest) -> Manifest:
    """``after`` without what was measured of engines that are others now."""
    remade = {
        precision
        for old, new in zip(before.engines, after.engines, strict=True)
        for precision in new.onnx
        if (old.onnx.get(precision), old.cpu.get(precision)) != (new.onnx[precision], new.cpu.get(precision))
    }
    kept = tuple(entry for entry in after.measured if entry.get("precision") not in remade)
    goldens = {key: file for key, file in after.goldens.items() if key.partition(".")[0] not in remade}
    return msgspec.structs.replace(after, measured=kept, goldens=goldens)


def _engine(
    bundle: Bundle, engine: Engine, precision: Precision, feeds: list[Feeds]
) -> tuple[bytes, dict[str, Any]]:
    """One engine's file, and how it was made."""
    from export.precision.fp16 import LIMIT, halve
    from export.precision.ranges import Ranges
    from export.precision.search import TENSORRT

    if precision == "int8":
        return _int8(bundle, engine, feeds, TENSORRT)
    stored = bundle.read(engine.onnx["fp32"])
    data = expanded(stored)
    largest = Ranges(data, feeds[::HELD_OUT]).largest
    wide = sorted(name for name, value in largest.items() if value > LIMIT)
    made = halve(data, largest)
    return made, {"size_share": _share(made, stored), "too_large_for_fp16": wide}


def _int8(bundle: Bundle, engine: Engine, feeds: list[Feeds], scheme: Scheme) -> tuple[bytes, dict[str, Any]]:
    """One engine's INT8 file for one kind of backend, and how it was made."""
    from export.precision.search import search

    stored, held_out = bundle.read(engine.onnx["fp32"]), feeds[::HELD_OUT]
    calibration = [feed for place, feed in enumerate(feeds) if place % HELD_OUT] or held_out
    found = search(stored, calibration, held_out, scheme)
    return found.data, {
        "size_share": _share(found.data, stored),
        "method": found.method,
        "quantized": [found.n_quantized, found.n_products],
        "excluded_layers": list(found.excluded),
        "error": round(found.error, 5),
        "error_by_method": {method: round(error, 5) for method, error in found.errors.items()},
    }


def _record(bundle: Bundle, made: Origins, found: Verification) -> None:
    """Write where the new engines come from and what was measured into the manifest and the card."""
    manifest = bundle.manifest
    before = manifest.provenance.get("precisions")
    recorded: dict[str, Any] = {**before} if isinstance(before, dict) else {}
    for precision, origin in made.items():
        recorded[precision] = {**origin, **_figures(bundle, precision, "gpu", found)}
        if "cpu" in origin:
            recorded[precision]["cpu"] = {**origin["cpu"], **_figures(bundle, precision, "cpu", found)}
    changed: dict[str, Any] = {"provenance": {**manifest.provenance, "precisions": recorded}}
    if manifest.card is not None:
        card = with_precisions(bundle.read(manifest.card).decode("utf-8"), recorded)
        changed["card"] = write_file(bundle.folder, manifest.card.file, card.encode())
    write_manifest(bundle.folder, msgspec.structs.replace(manifest, **changed))


def _figures(bundle: Bundle, precision: Precision, kind: GraphKind, found: Verification) -> dict[str, Any]:
    """What was measured of a precision's graphs of one kind."""
    drops = [drop for drop in found.drops if (drop.precision, drop.kind) == (precision, kind)]
    parity = [one for one in found.deviations if (one.precision, one.kind) == (precision, kind)]
    return {
        "size_share": round(_size_bytes(bundle, precision, kind) / _size_bytes(bundle, "fp32", kind), 4),
        "accuracy": [msgspec.to_builtins(drop) for drop in drops],
        "parity": {
            one.engine: {"max_abs": one.max_abs, "mean_abs": one.mean_abs, "top1": one.top1}
            for one in parity
            if one.top1 is not None
        },
    }


def _size_bytes(bundle: Bundle, precision: Precision, kind: GraphKind) -> int:
    files = [engine.graph(precision, kind) for engine in bundle.manifest.engines]
    return sum(bundle.path(file).stat().st_size for file in files)


def _share(made: bytes, data: bytes) -> float:
    return round(len(made) / len(data), 4)
