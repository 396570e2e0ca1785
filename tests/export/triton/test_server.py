"""The repository in a real Triton server: that of ``$TRITONSERVER``, a folder with ``bin`` and ``backends``.

A server's package for Python has no ONNX backend. There the engines' models become Python ones that run the
same ONNX files, under the same configurations; the model that draws and chains is the repository's own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.triton.repository import Options, write_repository
from sdk.bundle import Bundle

SERVER = Path(os.environ.get("TRITONSERVER", "/nowhere"))
READY_S = 240.0
IMAGES = np.linspace(0, 1, 2 * 3 * 16 * 16, dtype=np.float32).reshape(2, 3, 16, 16)
ENGINE = """
import os
import onnxruntime
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        names = [node.name for node in self.session.get_inputs()]
        feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names}
        outputs = zip(self.session.get_outputs(), self.session.run(None, feeds))
        return pb_utils.InferenceResponse([pb_utils.Tensor(node.name, array) for node, array in outputs])
"""

pytestmark = pytest.mark.skipif(
    not (SERVER / "bin" / "tritonserver").is_file(), reason="TRITONSERVER names no Triton server"
)


@pytest.fixture
def address(tiny_bundle: Path, tmp_path: Path) -> Iterator[str]:
    """Of a server with the tiny bundle, three votes for each image."""
    models = tmp_path / "models"
    write_repository(Bundle.open(tiny_bundle), models, Options(votes=3))
    if not (SERVER / "backends" / "onnxruntime").is_dir():
        for config in models.glob("*/config.pbtxt"):
            text = config.read_text()
            if "onnxruntime_onnx" in text:
                config.write_text(text.replace('platform: "onnxruntime_onnx"', 'backend: "python"'))
                (config.parent / "1" / "model.py").write_text(ENGINE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [SERVER / "bin" / "tritonserver", f"--model-repository={models}", f"--http-port={port}"]
    line += [f"--backend-directory={SERVER / 'backends'}", "--allow-grpc=false", "--allow-metrics=false"]
    log = (tmp_path / "log").open("wb")
    with subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT) as server:
        try:
            found = f"http://127.0.0.1:{port}/v2"
            end = time.monotonic() + READY_S
            while not is_ready(found):
                assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
                assert time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
                time.sleep(1)
            yield found
        finally:
            server.terminate()


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(address: str, images: np.ndarray, **parameters: object) -> tuple[int, Any]:
    tensor = {"name": "image", "shape": images.shape, "datatype": "FP32", "data": images.ravel().tolist()}
    outputs = [{"name": "probabilities", "parameters": parameters}, {"name": "purified"}]
    body = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    request = urllib.request.Request(f"{address}/models/tiny/infer", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def test_a_real_server_purifies_and_classifies_and_fails_closed(address: str) -> None:
    status, outputs = ask(address, IMAGES)
    assert status == 200, outputs
    probabilities, purified = (np.array(each["data"]).reshape(each["shape"]) for each in outputs)
    assert probabilities.shape == (2, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert purified.shape == IMAGES.shape
    assert len({str(ask(address, IMAGES[:1])[1][1]["data"]) for _ in range(12)}) > 1  # the draw changes
    _, named = ask(address, IMAGES, classification=1)
    assert named[0]["shape"] == [2, 1]
    assert {each.split(":")[-1] for each in named[0]["data"]} <= {"red", "green", "blue", "dark"}
    assert "unexpected shape for input 'image'" in ask(address, IMAGES[:, :, :8])[1]
    assert ask(address, IMAGES + 1) == (500, "image: expected values from 0 to 1")
    assert ask(address, IMAGES)[0] == 200
