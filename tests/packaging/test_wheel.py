"""What users install: the wheel and the sdist, built from this checkout and run outside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out", "runs", "site")
PACKAGES = {"sdk", "export", "trainer"}

pytestmark = pytest.mark.slow


def call(*line: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that doesn't see this checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words = list(map(str, line))
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    source = shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    call(sys.executable, "-m", "build", "--outdir", folder, cwd=source)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def expected_files() -> set[str]:
    """Every file of the three packages that belongs into them: code, type markers, data."""
    suffixes = {".py", ".typed", ".toml", ".html", ".js", ".css", ".svg"}
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    kept = (path for path in files if "__pycache__" not in path.parts)
    return {
        path.relative_to(ROOT).as_posix()
        for path in kept
        if path.suffix in suffixes or (ROOT / "sdk" / "bundles") in path.parents
    }


def test_the_wheel_holds_the_packages_and_no_tooling(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected_files()
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not [name for name in names if "eager" in name or Path(name).name.startswith("test_")]


def test_the_sdist_builds_what_the_checkout_does(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert expected_files() <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the runtime's dependencies, by their hashes, and the wheel."""
    folder = tmp_path_factory.mktemp("fresh")
    call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    line = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(*line, "--require-hashes", "--requirement", ROOT / "requirements.lock", cwd=folder)
    call(*line, wheel, cwd=folder)
    return programs


def test_the_wheel_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    place = call(installed / "python", "-c", "import sdk; print(sdk.__file__)", cwd=tmp_path).stdout
    assert Path(place.strip()).is_relative_to(installed.parent)
    assert "nothing that is needed failed" in call(installed / "edge-purify", "doctor", cwd=tmp_path).stdout
    shutil.copy(ROOT / "samples" / "clips" / "clean.avi", tmp_path)
    line = ["--source", "clean.avi", "--json", "results.jsonl", "--save", "annotated.mp4"]
    call(installed / "edge-purify", *line, cwd=tmp_path)
    results = [json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(results) == 120
    assert {result["label"] for result in results} >= {"cat"}
    assert (tmp_path / "annotated.mp4").stat().st_size > 10_000


@pytest.mark.parametrize("command", ["edge-purify", "edge-export", "edge-train", "edge-protect"])
def test_every_command_helps_where_only_the_runtime_is(installed: Path, command: str, tmp_path: Path) -> None:
    assert call(installed / command, "--help", cwd=tmp_path).stdout.startswith(f"Usage: {command} ")


def test_the_runtime_pulls_no_training_in(installed: Path, tmp_path: Path) -> None:
    line = [installed / "python", "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    names = {package["name"].lower() for package in json.loads(call(*line, cwd=tmp_path).stdout)}
    assert not names & {"torch", "onnx", "matplotlib", "lightning-fabric", "pytest"}
