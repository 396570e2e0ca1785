"""The machines that engines are built on: each target's runner, image and Docker options, for the workflow.

    python3 ci/targets.py            every target, as the value of a GitHub matrix
    python3 ci/targets.py l4         that one alone

There is an image for each row of the compatibility table in docs/jetson.md: JetPack 6 (TensorRT 10.3),
JetPack 7 (11.4), and datacenters with drivers for CUDA 12 (10.9) or 13 (11.2).
"""

from __future__ import annotations

import json
import sys

JETPACK_6 = {"file": "l4t", "base": "nvcr.io/nvidia/l4t-jetpack:r36.4.0", "docker": "--runtime nvidia"}
JETPACK_7 = {
    "file": "jetpack7",
    "base": "nvcr.io/nvidia/cuda:13.0.1-base-ubuntu24.04",
    "docker": "--runtime nvidia",
}
CUDA_12 = {"file": "tensorrt", "base": "nvcr.io/nvidia/tensorrt:25.03-py3", "docker": "--gpus all"}
CUDA_13 = {"file": "tensorrt", "base": "nvcr.io/nvidia/tensorrt:26.08-py3", "docker": "--gpus all"}
TARGETS = {
    "jetson-agx-orin/jp6": JETPACK_6,
    "jetson-orin-nano/jp6": JETPACK_6,
    "jetson-agx-orin/jp7": JETPACK_7,
    "jetson-thor/jp7": JETPACK_7,
    "t4": CUDA_12,
    "a100": CUDA_12,
    "a10": CUDA_12,
    "l4": CUDA_12,
    "h100": CUDA_12,
    "b200": CUDA_13,
}


def rows(wanted: str) -> list[dict[str, str]]:
    """A matrix row for the target ``wanted``, or for each where that is "all"; none where it is unknown."""
    return [
        {"target": name, "label": name.replace("/", "-"), **machine}
        for name, machine in TARGETS.items()
        if wanted in ("all", name)
    ]


def main(arguments: list[str]) -> int:
    wanted = arguments[0] if arguments else "all"
    if not (found := rows(wanted)):
        print(f"targets: expected all or one of {', '.join(TARGETS)}, got {wanted!r}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
