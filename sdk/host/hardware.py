"""What this machine is, read from the files of its kernel and drivers; no library is loaded for it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from pathlib import Path

ROOT = Path("/")

# the two kernel drivers of Jetson, and WSL 2; beside /dev/nvidia0, 1, … of desktops and servers
_GPU_NODES = ("dev/nvhost-ctrl-gpu", "dev/nvgpu", "dev/dxg")

# in /proc/cpuinfo, what of a processor decides on kernels and their speed: first x86's names, then ARM's
_CPU_FIELDS = {
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features", "Model"),
}


def gpu_nodes(root: Path = ROOT) -> list[str]:
    """The device files of NVIDIA GPUs; empty if there is none, or no container was given one.

    A container that was given GPU 1 alone has ``/dev/nvidia1`` and no ``/dev/nvidia0``.
    """
    numbered = sorted((root / "dev").glob("nvidia[0-9]*"))
    others = [root / name for name in _GPU_NODES]
    return ["/" + str(path.relative_to(root)) for path in (*numbered, *others) if path.exists()]


def closed_gpu_nodes(root: Path = ROOT) -> list[str]:
    """The GPUs' device files if this user may open none of them, as a Jetson's outside of group video."""
    found = [root / node[1:] for node in gpu_nodes(root)]
    files = [path for node in found for path in ([node] if not node.is_dir() else node.rglob("*"))]
    files = [path for path in files if not path.is_dir()]
    if any(os.access(path, os.R_OK | os.W_OK) for path in files):
        return []
    return ["/" + str(path.relative_to(root)) for path in files]


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


def jetson_model(root: Path = ROOT) -> str | None:
    """The module's name, like "NVIDIA Jetson AGX Orin Developer Kit"; None on other machines.

    All of Orin's GPUs call themselves "Orin". From the device tree or, in a container, which doesn't see
    that, from where ``ci/in-docker.sh`` puts it.
    """
    for place in ("proc/device-tree/model", "etc/jetson-model"):
        if "Jetson" in (text := _read(root / place)):
            return text.strip("\0\n")
    return None


def power_mode(root: Path = ROOT) -> tuple[str, list[str]] | None:
    """A Jetson's power mode, like "15W (0)", and the other ones that it has; None where neither is known.

    From the file that ``nvpmodel`` keeps and the one that it reads. *Not executed on a Jetson*.
    """
    current = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if current is None:
        return None
    listed = re.findall(
        r"^< *POWER_MODEL +ID=(\d+) +NAME=(\S+)", _read(root / "etc/nvpmodel.conf"), re.MULTILINE
    )
    names = {int(number): f"{name} ({number})" for number, name in listed}
    number = int(current[1])
    return names.get(number, f"({number})"), [name for each, name in names.items() if each != number]


def gpu_model(root: Path = ROOT) -> str | None:
    """The names of the NVIDIA GPUs, or of the Jetson that one is on; None where neither can be told."""
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    found = [re.search(r"^Model:\s*(.*\S)", _read(file), re.MULTILINE) for file in files]
    return ", ".join(match[1] for match in found if match) or jetson_model(root)


def processor(root: Path = ROOT) -> tuple[str, str]:
    """The processor's name, for people, and a digest of its models and instruction sets.

    The name alone won't do: a virtual machine may say only "AMD EPYC", with AVX-512 or without.
    """
    fields = [line.partition(":") for line in _read(root / "proc/cpuinfo").splitlines()]
    facts = sorted({(key.strip(), value.strip()) for key, _, value in fields if key.strip() in _CPU_FIELDS})
    names = [value for key, value in facts if key in ("model name", "Model")]
    name = names[0] if names else platform.processor() or platform.machine()
    return name, hashlib.sha256(repr(facts or name).encode()).hexdigest()


def has_exact_int8(root: Path = ROOT) -> bool:
    """Whether the processor multiplies unsigned by signed 8-bit numbers without saturating in between.

    x86 does with VNNI; with AVX2 or AVX-512 alone, sums of two products saturate at 16 bits. ARM never does.
    """
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    words = {word for line in _read(root / "proc/cpuinfo").splitlines() for word in line.split()}
    return bool(words & {"avx512_vnni", "avx_vnni"})


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
