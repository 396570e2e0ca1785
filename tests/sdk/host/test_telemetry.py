"""No dependency reports to its vendor, whichever way the SDK is entered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ISOLATED = ["unshare", "--map-root-user", "--net", "--mount", sys.executable]
WAIT = "; import time; time.sleep(1.5)"  # background threads report a moment after the import
ENTRIES = {
    "the library": "import numpy, sdk; sdk.Purifier.load(backend='onnxruntime', precision='fp32')"
    "(numpy.zeros((64, 64, 3), numpy.uint8))",
    "a backend": "import sdk.backends.onnxruntime",
    "openvino": "import sdk.backends.openvino",
    "a command": "import sys; sys.argv = ['edge-purify', 'doctor', '--json']; from sdk.cli import main; "
    "exec('try: main()\\nexcept SystemExit: pass')",
    "the exporter": "import export.precision.ranges",
    "the trainer": "import trainer.robustness.defences.judges",
    "training": "import trainer.loop.fit, trainer.loop.tensorboard, lightning_fabric, tensorboard",
    "the attacks of others": "import pyautoattack",
    "plots": "import os; os.environ['MPLCONFIGDIR'] = '/tmp'; import trainer.robustness.results.plots",
    "the exporter's tools": "import onnxscript, onnxslim, export.torch_to_onnx",
    "the page": "import aiohttp, prometheus_client, sdk.sinks.preview.server",
    "engine builds": "import tensorrt_rtx, cuda.bindings.driver",
    "videos": "import cv2, av, sdk.sources",
    "signatures": "import cryptography, sdk.bundle.signature",
}


def in_private_network(code: str, home: Path, **environment: str) -> dict[str, Any]:
    """What ``code`` left in ``home``, and the names that it looked up."""
    home.mkdir()
    helper = str(Path(__file__).with_name("in_private_network.py"))
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [*ISOLATED, helper, str(home), sys.executable, "-c", code + WAIT],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        pytest.skip(f"no private network here: {done.stderr.strip()[-200:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(autouse=True)
def _needs_unshare() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare isn't installed")


@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_reports_to_its_vendor(entry: str, tmp_path: Path) -> None:
    found = in_private_network(ENTRIES[entry], tmp_path / "home", ORT_DISABLE_TELEMETRY="0")
    assert (found["code"], found["names"]) == (0, []), found["stderr"]
    assert [name for name in found["files"] if "edge-purify" not in name] == []


def test_this_test_would_notice(tmp_path: Path) -> None:
    found = in_private_network("import onnxruntime", tmp_path / "home")
    if not found["files"]:
        pytest.skip("this build of ONNX Runtime doesn't report")
    assert any("onnxruntime" in name for name in found["files"])
    looked_up = in_private_network(
        "import socket; exec('try: socket.getaddrinfo(\"report.example\", 443)\\nexcept OSError: pass')",
        tmp_path / "other",
    )
    assert "report.example" in looked_up["names"]
