#!/usr/bin/env bash
# Make the virtual environment that 'make test-gpu' runs in, with the TensorRT and the bindings that fit this machine.
#
#   ci/gpu-venv.sh DIR     $PYTHON makes it (default: python3)
#
# On a Jetson TensorRT and OpenCV are the system's, so the environment sees the system's packages. Elsewhere the
# driver decides: TensorRT for CUDA 13 and TensorRT-RTX from CUDA 13 on, TensorRT for CUDA 12 with an older driver.
# Not executed on a GPU.
set -euo pipefail
if [ $# -ne 1 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
venv=$1
python=${PYTHON:-python3}
release=${ROOT:-}/etc/nv_tegra_release # $ROOT is for tests
cd "$(dirname "$0")/.."

fail() {
    echo "ci/gpu-venv.sh: $1" >&2
    exit 1
}

options=()
if [ -e "$release" ]; then
    options=(--system-site-packages)
    case "$(sed -n 's/^# R\([0-9]*\) .*/\1/p' "$release")" in
    36) wanted=('.[jetson]') ;;
    38 | 39) wanted=(. 'cuda-bindings>=13') ;;
    *) fail "expected JetPack 6 or 7 (Jetson Linux R36, R38 or R39), got: $(head -n 1 "$release")" ;;
    esac
else
    served=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p') || served=
    case "$served" in
    12) wanted=('.[tensorrt-cu12]') ;;
    1[3-9]) wanted=('.[tensorrt-cu13,rtx]') ;;
    *) fail "expected an NVIDIA driver that serves CUDA 12 or later (by nvidia-smi), got: ${served:-none}" ;;
    esac
fi
"$python" -m venv "${options[@]}" "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "${wanted[@]}" pytest onnx
"$venv/bin/python" -c 'import tensorrt, cv2, numpy; print("TensorRT", tensorrt.__version__, "OpenCV", cv2.__version__)'
