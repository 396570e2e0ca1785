"""No process of ours imports from the working directory: tried in a folder where every name is a trap."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from sdk.host.children import forget_working_directory, python_code, python_module, safe_spawn

TRAPS = (
    "runpy",
    "cv2",
    "multiprocessing",
    "numpy",
    "onnxruntime",
    "click",
    "msgspec",
    "json",
    "pickle",
    "torch",
)


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with modules that leave a mark when they are imported."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'sprung')!r}, 'a').write('{name} ')\nraise ImportError('a trap')\n"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_traps_work(trapped: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import json"], capture_output=True, check=False, timeout=60)
    assert done.returncode != 0
    assert (trapped / "sprung").read_text() == "json "


def test_code_and_modules_run_without_the_working_directory(trapped: Path) -> None:
    assert run(python_code("import json, click; print(json.dumps([1]))")) == "[1]\n"
    assert "edge-purify" in run(python_module("sdk.cli", "--version"))
    assert not (trapped / "sprung").exists()


def _report(connection: object) -> None:
    import json

    connection.send((json.__file__, str(Path.cwd())))  # type: ignore[attr-defined]


def test_a_spawned_process_starts_without_it_and_in_it(trapped: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_report, args=(theirs,))
    with safe_spawn():
        process.start()
    theirs.close()
    json_file, where = ours.recv()
    process.join()
    assert Path(json_file).parent != trapped
    assert where
    assert not (trapped / "sprung").exists()
    assert Path.cwd() == trapped


def test_python_m_forgets_it_once_it_runs(trapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(trapped), "/elsewhere"])
    forget_working_directory()
    assert sys.path == ["/elsewhere"]
    forget_working_directory()
    assert sys.path == ["/elsewhere"], "nothing of the user's own"


@pytest.mark.parametrize("module", ["sdk.cli", "export.cli", "trainer.cli"])
def test_python_m_imports_nothing_of_the_working_directory(trapped: Path, module: str) -> None:
    """Not even while the package is imported that holds the module; what Python itself needs comes before."""
    for name in ("runpy", "multiprocessing", "json", "pickle"):
        (trapped / f"{name}.py").unlink()
    assert "Usage: edge-" in run([sys.executable, "-m", module, "--help"])
    assert not (trapped / "sprung").exists()


def test_a_program_of_the_users_own_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("import sdk\n")
    (tmp_path / "own" / "__main__.py").write_text("import beside; print(beside.WHAT)\n")
    (tmp_path / "beside.py").write_text("WHAT = 'mine'\n")
    monkeypatch.chdir(tmp_path)
    assert run([sys.executable, "-m", "own"]) == "mine\n"
