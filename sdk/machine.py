"""What this machine is, read from the files of its kernel and drivers; no library is loaded for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path("/")

# a desktop or server, the two kernel drivers of Jetson, and WSL 2
_GPU_NODES = ("dev/nvidia0", "dev/nvhost-ctrl-gpu", "dev/nvgpu", "dev/dxg")


def gpu_nodes(root: Path = ROOT) -> list[str]:
    """The device files of an NVIDIA GPU; empty if there is none that this process could open."""
    return ["/" + name for name in _GPU_NODES if (root / name).exists()]


def kernel_driver(root: Path = ROOT) -> str | None:
    """The version of NVIDIA's kernel driver, like "570.86"; None if it isn't loaded."""
    text = _read(root / "proc/driver/nvidia/version")
    found = re.search(r"^NVRM version:.*?\s(\d+\.[\d.]+)\s", text, re.MULTILINE)
    return found[1] if found else _read(root / "sys/module/nvidia/version").strip() or None


def l4t_release(root: Path = ROOT) -> str | None:
    """The release of a Jetson's Linux for Tegra, like "36.4.3"; None on other machines."""
    text = _read(root / "etc/nv_tegra_release")
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def cuda_toolkit(root: Path = ROOT) -> str | None:
    """The version of the CUDA toolkit in its usual place, like "12.6.68"; None if there is none."""
    try:
        version = json.loads(_read(root / "usr/local/cuda/version.json"))["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(version)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
