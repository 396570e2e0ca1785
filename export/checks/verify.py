"""The checks on a bundle: golden outputs replayed, and every engine held to what it was made from.

FP32 engines are held to the torch twin, engines of a lower precision to the FP32 engines, by error and,
where there are images with labels, by the accuracy that they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from export.checks.accuracy import Drop, PairedAccuracy
from export.checks.fp32_parity import parity_fp32
from export.checks.gate import Finding, gate
from export.checks.outcome import Verification
from export.checks.report import write_report
from export.inputs.labelled import Labelled
from sdk.backends import open_backend
from sdk.backends.golden import Golden, replay
from sdk.backends.interface import Backend
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle, Precision
from sdk.bundle.deviation import Deviation
from sdk.choices import GraphKind

N_IMAGES = 64

OnStep = Callable[[str], None]
CompareFp32 = Callable[
    [Bundle, Backend], list[Deviation]
]  #: compares FP32 engines with what they were made from


def verify(
    bundle: Bundle,
    *,
    n_images: int = N_IMAGES,
    labelled: Iterable[Labelled] = (),
    report: Path | None = None,
    on_step: OnStep = lambda step: None,
    compare_fp32: CompareFp32 | None = None,
) -> Verification:
    """Examine ``bundle``, write the report if one is asked for, and hold everything found to its bound.

    Args:
        n_images: that engines are compared on.
        labelled: sets of images that the lower precisions' accuracy is measured on.
        report: a file to write, ``.json`` or ``.xml``, whether the bundle passes or not.
        on_step: called with the name of each step as it begins.
        compare_fp32: what FP32 engines are held to; by default the bundle's twin, if it has one.

    Raises:
        GateError: naming the engine that is off, and the worst of its layers.
        BackendError: an engine can't be loaded or run.
        BundleError: the golden outputs or the twin can't be read.
        UsageError: the report can't be written there.
    """
    _check_operators(bundle)
    found = examine(
        bundle, n_images=n_images, labelled=tuple(labelled), on_step=on_step, compare_fp32=compare_fp32
    )
    if report is not None:
        write_report(report, bundle, found)
    hold(bundle, found)
    return found


def examine(
    bundle: Bundle,
    *,
    n_images: int = N_IMAGES,
    labelled: tuple[Labelled, ...] = (),
    on_step: OnStep = lambda step: None,
    compare_fp32: CompareFp32 | None = None,
) -> Verification:
    """Run every engine as the runtime runs it, and say what was found; opening has checked the integrity."""
    golden = Golden.load(bundle)
    without_twin = _why_without_twin(bundle)
    drops: list[Drop] = []
    with closing(open_backend(bundle, "onnxruntime", "fp32")) as full:
        on_step("verify fp32")
        deviations = replay(bundle, full, golden)
        if compare_fp32 is not None:
            deviations += compare_fp32(bundle, full)
        elif without_twin is None:
            deviations += _against_twin(bundle, full, n_images)
        lower = bundle.manifest.lower_precisions
        accuracies = [PairedAccuracy(bundle, full, images) for images in labelled if lower]
        for precision in lower:
            on_step(f"verify {precision}")
            for kind in graph_kinds(bundle, precision):
                with closing(OnnxRuntimeBackend(bundle, precision, graphs=kind)) as low:
                    # golden images are made by rule: where there are pictures like those that the bundle is
                    # for, an engine that was calibrated on such is judged on these alone
                    compared = [] if labelled else replay(bundle, low, golden)
                    compared += _against_fp32(bundle, low, full, n_images, labelled)
                    deviations += [replace(one, kind=kind) for one in compared]
                    drops += [replace(one.drop(low), kind=kind) for one in accuracies]
        backend = f"{full.name} {full.version}"
    return Verification(backend, tuple(deviations), without_twin, tuple(drops))


def hold(bundle: Bundle, found: Verification) -> None:
    """Hold all that was found to its bound.

    Raises:
        GateError: see ``verify``.
    """
    gate((*found.deviations, *found.drops), lambda finding: _worst_layers(bundle, finding))


def graph_kinds(bundle: Bundle, precision: Precision) -> tuple[GraphKind, ...]:
    """The kinds of graph that ``bundle`` has for ``precision``: "gpu" alone where one serves all."""
    return ("gpu", "cpu") if any(precision in engine.cpu for engine in bundle.manifest.engines) else ("gpu",)


def _check_operators(bundle: Bundle) -> None:
    """That TensorRT 10.3 takes our graphs; a foreign classifier may need a later one, and is left alone."""
    if not bundle.manifest.has_external_classifier and find_spec("onnx") is not None:
        from export.checks.trt_operators import check_bundle

        check_bundle(bundle)


def _against_twin(bundle: Bundle, backend: Backend, n_images: int) -> list[Deviation]:
    # torch is imported only here, so that a device without it can verify a bundle too
    from export.checks.twin_parity import parity, purifier_parity
    from trainer.models.twin import read_purifiers, read_twin

    if bundle.manifest.has_external_classifier:  # its file is all that it could be compared with
        return purifier_parity(bundle, backend, read_purifiers(bundle), n_images=n_images)
    return parity(bundle, backend, read_twin(bundle), n_images=n_images)


def _against_fp32(
    bundle: Bundle, low: Backend, full: Backend, n_images: int, labelled: tuple[Labelled, ...]
) -> list[Deviation]:
    """On the first labelled images, or on self-made ones if there is torch to make them."""
    if labelled:
        images = labelled[0].images[:n_images]
    elif find_spec("torch") is not None:
        from export.inputs.calibration import self_made_images

        images = self_made_images(bundle.manifest, n_images)
    else:
        return []
    return parity_fp32(bundle, low, full, images)


def _worst_layers(bundle: Bundle, finding: Finding) -> str:
    """The layers that are the furthest off, for an error; nothing of FP32 or where onnx isn't installed."""
    if finding.precision == "fp32" or find_spec("onnx") is None or find_spec("torch") is None:
        return ""
    from export.precision.layers import worst_layers_of

    worst = worst_layers_of(bundle, finding.engine, finding.precision, finding.kind)
    return "; worst layers: " + ", ".join(f"{layer} ({error:.1%} off)" for layer, error in worst)


def _why_without_twin(bundle: Bundle) -> str | None:
    if bundle.manifest.twin is None:
        return "the bundle has no twin"
    if bundle.manifest.twin.config.get("classifier", {}).get("kind") == "module":
        return "its classifier is code outside the bundle"
    if find_spec("torch") is None or find_spec("safetensors") is None:
        return "torch isn't installed: pip install 'edge-purify[export]'"
    return None
