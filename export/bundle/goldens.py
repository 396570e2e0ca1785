"""Golden outputs of a lower precision's own engines, where those of FP32 don't hold for them.

An INT8 engine that was calibrated on a user's pictures may answer otherwise on the golden images, which are
made by rule. A device is then held to what the same engines answer here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from io import BytesIO

import msgspec

from export.checks.verify import graph_kinds
from sdk.backends.golden import Golden, outputs_of, replay
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle, Precision, write_manifest
from sdk.bundle.files import write_file


def add_goldens(bundle: Bundle, precisions: Iterable[Precision]) -> None:
    """Add them to the folder of ``bundle``, for the engines of ``precisions`` that are beyond FP32's bounds.

    Raises:
        BackendError: an engine failed.
        BundleError: the golden outputs can't be read, or the folder can't be written.
    """
    fp32, goldens = Golden.load(bundle), dict(bundle.manifest.goldens)
    for precision in precisions:
        for kind in graph_kinds(bundle, precision):
            with closing(OnnxRuntimeBackend(bundle, precision, graphs=kind)) as backend:
                if not any(off.complaint for off in replay(bundle, backend, fp32)):
                    continue
                key = precision if kind == "gpu" else f"{precision}.{kind}"
                outputs_of(bundle, backend, fp32).save(content := BytesIO())
            goldens[key] = write_file(bundle.folder, f"golden.{key}.npz", content.getvalue())
    if goldens != bundle.manifest.goldens:
        write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, goldens=goldens))
