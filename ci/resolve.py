"""Resolve the extras of pyproject.toml for other Pythons and machines, by dry runs of pip; see ci/resolve.sh.

pip takes wheels alone for another machine. TensorRT's packages are source distributions that fetch NVIDIA's
wheels when they are installed, and PyCUDA is compiled; for these the index is only asked for a version that
fits. An empty wheel stands in for PyTorch, of the newest version that the index has for the target: a dry run
would load gigabytes of CUDA. Markers of our own dependencies are evaluated for the target, those of theirs by
pip for the Python that runs this.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
GLIBC = tuple(f"2_{minor}" for minor in range(5, 36))  # up to Ubuntu 22.04 and JetPack 6
ONLY_ON = {  # where an extra is for one machine
    "jetson": ("aarch64", ("3.10", "3.12")),  # JetPack 6 and 7
    "rtx": ("x86_64", PYTHONS),
    "make test": ("x86_64", PYTHONS),
}
PINNED = {"make demo": "runtime", "make test": "dev"}  # with the versions of constraints.txt
SOURCE_ONLY = re.compile(r"tensorrt|pycuda$")
HEAVY = "torch"


def main(wanted: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"runtime": [], **project["optional-dependencies"], **{name: [] for name in PINNED}}
    names = wanted or [name for name in extras if name != "dev"]
    if unknown := set(names) - set(extras):
        print(f"resolve: expected some of {', '.join(extras)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        for python, machine in targets(name):
            asked = requirements(project, extras, PINNED.get(name, name), python, machine)
            found, error = resolve(asked, python, machine, pins(python, machine) if name in PINNED else [])
            failed += error is not None
            print(f"{name:<14} cp{python.replace('.', ''):<4} {machine:<8} {error or found}", flush=True)
    return 1 if failed else 0


def targets(extra: str) -> Iterator[tuple[str, str]]:
    machine, pythons = ONLY_ON.get(extra, (None, PYTHONS))
    for python in pythons:
        for each in MACHINES:
            if machine in (None, each):
                yield python, each


def requirements(
    project: dict[str, Any], extras: dict[str, list[str]], name: str, python: str, machine: str
) -> list[Requirement]:
    """What the package with one extra asks for on a target."""
    environment = environment_of(python, machine)
    found = []
    for text in (*project["dependencies"], *extras[name]):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            if requirement.name == project["name"]:
                for extra in requirement.extras:
                    found += requirements(project, extras, extra, python, machine)
            else:
                found.append(requirement)
    return found


def environment_of(python: str, machine: str) -> dict[str, str]:
    """What the markers of a requirement are evaluated by, for a target."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "extra": "",
    }


def pins(python: str, machine: str) -> list[str]:
    """The pins of constraints.txt for a target, without markers: pip evaluates them for its own Python."""
    found = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment_of(python, machine)):
                pin.marker = None
                found.append(str(pin))
    return found


def resolve(
    wanted: list[Requirement], python: str, machine: str, pinned: list[str]
) -> tuple[str, str | None]:
    """The versions that a target would get, or what is in the way."""
    source_only = [one for one in wanted if SOURCE_ONLY.match(one.name)]
    for one in source_only:
        if not offered(one, []):
            return "", f"no version of {one} on the index"
    platforms = [f"--platform=manylinux_{version}_{machine}" for version in GLIBC]
    target = [*platforms, f"--platform=manylinux2014_{machine}", f"--python-version={python}"]
    target.append("--only-binary=:all:")
    wheels = [str(one) for one in wanted if one not in source_only]
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
        *("--target=/nonexistent", "--report=-"),
    ]
    with TemporaryDirectory() as room:
        constraints = Path(room, "constraints.txt")
        constraints.write_text("\n".join(pinned))
        heavy = [Requirement(text) for text in (HEAVY, *pinned) if Requirement(text).name == HEAVY]
        if versions := offered(heavy[-1], target):
            write_empty_wheel(Path(room), HEAVY, f"{versions[0].partition('+')[0]}+standin")
        line = [*command, *target, f"--constraint={constraints}", f"--find-links={room}", *wheels]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return "", " ".join(errors)[-300:] or done.stderr[-300:]
    names = {one.name.lower().replace("_", "-") for one in wanted}
    got = [
        f"{item['metadata']['name']} {item['metadata']['version']}"
        for item in json.loads(done.stdout)["install"]
        if item["metadata"]["name"].lower().replace("_", "-") in names
    ]
    return ", ".join([*sorted(got), *(f"{one.name} (source)" for one in source_only)]), None


def offered(wanted: Requirement, target: list[str]) -> list[str]:
    """The versions on the index that fit, the newest first.

    Args:
        target: pip's options for a machine and Python; empty for whatever machine, and as source.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", wanted.name, *target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^Available versions: (.*)$", done.stdout, re.MULTILINE)
    return [one for one in found[1].split(", ") if wanted.specifier.contains(one)] if found else []


def write_empty_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel that nothing is in and that needs nothing."""
    described = f"{name}-{version}.dist-info"
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{described}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{described}/RECORD", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
