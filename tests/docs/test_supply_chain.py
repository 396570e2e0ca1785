"""The lock file, the bill of materials and the audit of the runtime's dependencies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, set[str]]:
    """The versions of every package that is pinned in the text of a requirements file."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(normalized(name), set()).add(version)
    return found


def test_every_dependency_of_the_runtime_is_locked_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["web"], *extras["signing"]]
    names = {normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}  # type: ignore[index]
    assert names <= set(pins(LOCK))
    entries = re.split(r"\n(?=\S)", LOCK.strip())[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_locked_versions_are_those_that_are_tested() -> None:
    tested = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert not {
        name: versions for name, versions in pins(LOCK).items() if versions != tested.get(name, versions)
    }


def test_the_bill_of_materials_names_what_is_locked(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("cyclonedx-py")
    if not program.exists():
        pytest.skip("cyclonedx-bom isn't installed")
    path = tmp_path / "sbom.json"
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin"}
    line = [str(ROOT / "ci" / "sbom.sh"), str(path)]
    made = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    bill = json.loads(path.read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "edge-purify"
    components: dict[str, set[str]] = {}
    for component in bill["components"]:
        components.setdefault(normalized(component["name"]), set()).add(component["version"])
    assert components == pins(LOCK)


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def audit() -> ModuleType:
    return script("audit")


KNOWN = {"name": "click", "version": "8.5.1", "vulns": []}
UNKNOWN = {"name": "rich", "skip_reason": "not found"}
VULNERABLE = {"name": "aiohttp", "version": "1.0", "vulns": [{"id": "PYSEC-0"}]}


@pytest.mark.parametrize(
    ("dependencies", "exit_code", "says"),
    [
        ([KNOWN, KNOWN], 0, "audit: 2 packages, 0 with known vulnerabilities"),
        ([KNOWN, UNKNOWN], 0, "audit: not in the database: rich"),
        ([UNKNOWN, UNKNOWN], 0, "audit: skipped: the advisory database can't be reached"),
        ([KNOWN, VULNERABLE], 1, "PYSEC-0"),
    ],
)
def test_the_audit_fails_on_a_vulnerability_and_tells_what_it_skipped(
    audit: ModuleType,
    dependencies: list[dict[str, object]],
    exit_code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit.verdict(dependencies) == exit_code
    assert says in capsys.readouterr().out


def test_extras_are_resolved_by_the_targets_markers_and_pins() -> None:
    resolve = script("resolve")
    project = {"name": "edge-purify", "dependencies": ["numpy", "tomli; python_version < '3.11'"]}
    extras = {"cv": ["opencv-python; platform_machine != 'aarch64'"], "all": ["edge-purify[cv]"]}

    def names(*target: str) -> list[str]:
        return [one.name for one in resolve.requirements(project, extras, "all", *target)]

    assert names("3.10", "x86_64") == ["numpy", "tomli", "numpy", "tomli", "opencv-python"]
    assert names("3.13", "aarch64") == ["numpy", "numpy"]
    pinned = {python: resolve.pins(python, "x86_64") for python in resolve.PYTHONS}
    assert "numpy==2.2.6" in pinned["3.10"]  # the last one for Python 3.10
    for lines in pinned.values():
        assert not [line for line in lines if ";" in line]
        assert len({line.partition("==")[0] for line in lines}) == len(lines)
    everything = {*resolve.targets("web")}
    assert len(everything) == 8
    assert {*resolve.targets("jetson")} == {("3.10", "aarch64"), ("3.12", "aarch64")}


def test_what_stands_in_for_pytorch_installs_without_dependencies(tmp_path: Path) -> None:
    script("resolve").write_empty_wheel(tmp_path, "torch", "2.13.0+standin")
    line = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-index",
        "--ignore-installed",
        "--quiet",
    ]
    line += ["--report=-", f"--find-links={tmp_path}", "torch==2.13.0"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)["install"]
    assert (found["metadata"]["name"], found["metadata"]["version"]) == ("torch", "2.13.0+standin")


def test_the_script_that_pins_actions_takes_the_commit_of_a_tag(tmp_path: Path) -> None:
    """Against a stand-in for git that answers as ls-remote does for an annotated tag."""
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "test.yml").write_text(f"      - uses: actions/checkout@{'1' * 40} # v4.2.2\n")
    (tmp_path / "ci").mkdir()
    shutil.copy(ROOT / "ci" / "pin-actions.sh", tmp_path / "ci")
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(
        f"#!/bin/sh\nprintf '{'a' * 40}\\trefs/tags/v5.0.0\\n{'b' * 40}\\trefs/tags/v5.0.0^{{}}\\n'\n"
    )
    git.chmod(0o755)
    line = [str(tmp_path / "ci" / "pin-actions.sh"), "actions/checkout@v5.0.0"]
    environment = {"PATH": f"{git.parent}:/usr/bin:/bin"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (workflows / "test.yml").read_text() == f"      - uses: actions/checkout@{'b' * 40} # v5.0.0\n"
