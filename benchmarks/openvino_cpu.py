"""OpenVINO against ONNX Runtime: the engines of a bundle on one CPU thread each, by turns in one run.

    python -m venv openvino && openvino/bin/pip install -r benchmarks/requirements-openvino.txt
    openvino/bin/python benchmarks/openvino_cpu.py [BUNDLE] [--rounds N] [--json]

Needs neither the runtime nor its environment: it reads ``bundle.json`` and the ONNX files. Both run as the
runtime's backends set them up, OpenVINO's arithmetic held to float32 (INT8 layers stay INT8): that is
"exact". It runs once more "free", where it may take bfloat16 if the processor has it.

The question that it answers: does OpenVINO's best precision beat ONNX Runtime's best by more than 20 % of a
frame, one purifier and one classifier?  With VNNI it does, in INT8, so the runtime has the backend
``openvino``, as an extra; ``sdk/backends/openvino.py`` has the figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import openvino

DEFAULT_BUNDLE = Path(__file__).parent.parent / "sdk" / "bundles" / "ren-cifar10-edge"
RUNTIMES = ("onnxruntime", "openvino exact", "openvino free")
PRECISIONS = ("fp32", "fp16", "int8")
WARM_UP_ROUNDS = 10

Array = np.ndarray
Run = Callable[[], Array]


@dataclass
class Row:
    """One engine in one precision and runtime. ``off`` is against ONNX Runtime on the same file."""

    role: str
    precision: str
    runtime: str
    p50_ms: float
    min_ms: float
    load_ms: float
    off: float


@dataclass
class Contender:
    """An engine that is loaded, and its times so far."""

    role: str
    precision: str
    runtime: str
    run: Run
    load_ms: float
    times_ms: list[float] = field(default_factory=list)

    def time_one(self) -> None:
        start = perf_counter()
        self.run()
        self.times_ms.append((perf_counter() - start) * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description="OpenVINO against ONNX Runtime on a bundle's engines.")
    parser.add_argument("bundle", nargs="?", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--rounds", type=int, default=500, help="runs of each engine [500]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if not (arguments.bundle / "bundle.json").is_file():
        parser.error(f"{arguments.bundle}: expected a bundle's folder, with bundle.json in it")
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected >= 1, got {arguments.rounds}")
    rows = measure(load(arguments.bundle), arguments.rounds)
    frames = {runtime: best_frame(rows, runtime) for runtime in RUNTIMES}
    versions = {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    if arguments.json:
        report = {"versions": versions, "engines": [asdict(row) for row in rows], "frame_ms": frames}
        print(json.dumps(report, indent=2))
        return
    print("  ".join(f"{name} {version}" for name, version in versions.items()))
    for row in rows:
        print(
            f"{row.role:<11}{row.precision:<6}{row.runtime:<16}p50 {row.p50_ms:7.3f} ms  "
            f"min {row.min_ms:7.3f} ms  load {row.load_ms:6.0f} ms  off {row.off:.1e}"
        )
    ours = frames["onnxruntime"]["min_ms"]
    for runtime, frame in frames.items():
        share = f"{frame['min_ms'] / ours:.2f} x onnxruntime"
        print(f"best frame  {runtime:<16}{frame['precision']}  min {frame['min_ms']:.3f} ms  {share}")


def load(bundle: Path) -> list[Contender]:
    """The first purifier and the first classifier, in every precision and runtime."""
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    size = manifest["image"]
    image = np.random.default_rng(0).random((1, 3, size["height"], size["width"]), np.float32)
    contenders = []
    for role, engine in (("purifier", manifest["purifiers"][0]), ("classifier", manifest["classifiers"][0])):
        feeds = {"image": image} | {spec["name"]: subset(spec) for spec in engine.get("random_inputs", ())}
        for precision in [name for name in PRECISIONS if name in engine["onnx"]]:
            path = str(bundle / engine["onnx"][precision]["file"])
            for runtime in RUNTIMES:
                start = perf_counter()
                run = opened(runtime, path, precision, feeds)
                load_ms = (perf_counter() - start) * 1e3
                contenders.append(Contender(role, precision, runtime, run, load_ms))
    return contenders


def measure(contenders: list[Contender], rounds: int) -> list[Row]:
    """Run all by turns, so that a busy machine slows them alike."""
    for _ in range(WARM_UP_ROUNDS):
        for contender in contenders:
            contender.run()
    for _ in range(rounds):
        for contender in contenders:
            contender.time_one()
    reference = {(c.role, c.precision): c.run().copy() for c in contenders if c.runtime == "onnxruntime"}
    return [
        Row(
            c.role,
            c.precision,
            c.runtime,
            float(np.median(c.times_ms)),
            min(c.times_ms),
            c.load_ms,
            float(np.abs(c.run() - reference[c.role, c.precision]).max()),
        )
        for c in contenders
    ]


def best_frame(rows: list[Row], runtime: str) -> dict[str, Any]:
    """The precision in which a purifier and a classifier together take the least time."""
    of_runtime = [row for row in rows if row.runtime == runtime]
    sums = {
        precision: sum(row.min_ms for row in of_runtime if row.precision == precision)
        for precision in {row.precision for row in of_runtime}
    }
    best = min(sums, key=lambda precision: sums[precision])
    return {"precision": best, "min_ms": sums[best]}


def opened(runtime: str, path: str, precision: str, feeds: dict[str, Array]) -> Run:
    if runtime == "onnxruntime":
        session = onnxruntime.InferenceSession(path, _options(precision), providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)[0]
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    config["ENABLE_CPU_PINNING"] = False
    if runtime == "openvino exact":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
    return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)[0]


def _options(precision: str) -> Any:
    """As ``sdk.backends.onnxruntime`` sets a session up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if precision == "int8":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def subset(spec: dict[str, Any]) -> Array:
    """Some value of a random input: the first positions."""
    positions = np.arange(spec["take"])
    if spec["encoding"] == "indices":
        return positions.astype(spec["dtype"]).reshape(spec["shape"])
    mask = np.zeros(spec["shape"], spec["dtype"])
    mask[0, positions] = 1
    return mask


if __name__ == "__main__":
    main()
