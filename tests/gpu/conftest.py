"""What the tests on a GPU run on: a bundle whose engines are built here, for each TensorRT that is installed.

``make test-gpu`` runs them on the default bundle, or the one that ``$EDGE_PURIFY_BUNDLE`` names; where there
is no GPU they are skipped with the reason. *Not executed on a GPU* until somebody with one has.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import get_args

import pytest

from sdk.backends.plan_store import EngineBackend, build_command
from sdk.backends.tensorrt import TensorRtBackend
from sdk.backends.tensorrt_engine import MODULES
from sdk.bundle import MANIFEST, Bundle, Precision, default_bundle
from sdk.host.hardware import gpu_nodes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := _why_not():
        for item in items:
            if item.path.parent.name == "gpu":
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return Bundle.open(default_bundle())


@pytest.fixture(scope="session", params=get_args(EngineBackend))
def library(request: pytest.FixtureRequest) -> EngineBackend:
    """Each TensorRT that is installed."""
    name: EngineBackend = request.param
    if find_spec(MODULES[name]) is None:
        pytest.skip(f"{MODULES[name]} isn't installed")
    return name


@pytest.fixture(scope="session", params=get_args(Precision))
def backend(
    request: pytest.FixtureRequest, bundle: Bundle, library: EngineBackend
) -> Iterator[TensorRtBackend]:
    """Each precision of the bundle, its engines built or reused by the command that errors name."""
    precision: Precision = request.param
    if any(precision not in e.onnx for e in bundle.manifest.engines):
        pytest.skip(f"the bundle has no {precision} engines")
    _, *arguments = shlex.split(build_command(bundle, library, precision))
    subprocess.run([sys.executable, "-c", "from export.cli import main; main()", *arguments], check=True)
    opened = TensorRtBackend(bundle, library, precision)
    yield opened
    opened.close()


def _why_not() -> str | None:
    if not gpu_nodes():
        return "no NVIDIA GPU here; on a machine with one: make test-gpu"
    if not (default_bundle() / MANIFEST).is_file():
        return f"no bundle in {default_bundle()}; set EDGE_PURIFY_BUNDLE"
    return None
