"""``edge-export``: outcomes, exit codes, one line an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.cli import console
from sdk.bundle import Bundle
from tests.export.cli.helpers import assert_one_line, run
from tests.export.spoil import break_engine, edit_manifest

ENGINES = ["purifier-00", "purifier-01", "purifier-02", "classifier-00", "classifier-01"]


@pytest.mark.usefixtures("ready")
def test_bundle_then_verify(checkpoint_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    written = run("bundle", checkpoint_path, out, "--name", "mine", "--json")
    assert written.exit_code == 0, written.output
    assert written.stderr == ""
    outcome = json.loads(written.stdout)
    assert outcome["bundle"] == Bundle.open(out).manifest.name == "mine"
    compared = [(d["engine"], d["n_draws"]) for d in outcome["deviations"] if d["against"] == "twin"]
    assert compared == [(engine, 64) for engine in ENGINES]
    verified = run("verify", out, "--images", 2)
    assert verified.exit_code == 0, verified.output
    assert verified.stdout.splitlines()[-1].startswith(f"{out}: mine, 0.1 MB, verified through onnxruntime ")


@pytest.mark.parametrize("engine", ["purifier-01", "classifier-00"])
def test_a_broken_engine_with_a_fitting_hash_fails_the_gate(folder: Path, engine: str) -> None:
    break_engine(folder, engine)
    Bundle.open(folder)  # integrity alone doesn't find it
    assert_one_line(run("verify", folder), 3, f"{engine}: its ", "expected at most 1e-04")


def test_a_changed_byte_is_damage(folder: Path) -> None:
    path = folder / "onnx" / "purifier-02.fp32.onnx"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert_one_line(run("verify", folder), 1, "onnx/purifier-02.fp32.onnx is damaged or changed")


def test_no_bundle_there(tmp_path: Path) -> None:
    assert_one_line(run("verify", tmp_path / "absent"), 1, "no such folder")


def test_no_checkpoint_there(tmp_path: Path) -> None:
    assert_one_line(run("bundle", tmp_path / "absent.pt", tmp_path / "out"), 1, "absent.pt: no such file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"notes", b"hello world, this is a config\n", b"PK\x03\x04zip"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.pt").write_bytes(content)
    result = run("bundle", tmp_path / "notes.pt", tmp_path / "out")
    assert_one_line(result, 1, "notes.pt: not readable as a torch file (", "a checkpoint of 'edge-train fit'")
    assert "weights_only" not in result.stderr


def test_a_bundle_is_not_overwritten_unasked(checkpoint_path: Path, folder: Path) -> None:
    assert_one_line(run("bundle", checkpoint_path, folder), 2, "replace it with --force")


@pytest.mark.parametrize(
    "option", ["--data=/absent", "--dataset=cifar10", "--accuracy-images=5", "--attacked=/absent"]
)
def test_what_judges_lower_precisions_is_refused_where_there_are_none(
    checkpoint_path: Path, tmp_path: Path, option: str
) -> None:
    result = run("bundle", checkpoint_path, tmp_path / "out", option)
    name = option.split("=")[0]
    assert_one_line(
        result, 2, f"{name}: it calibrates and judges lower precisions, and --precision is fp32; add fp16 or"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["verify", "precision"])
@pytest.mark.parametrize("option", ["--dataset=cifar10", "--accuracy-images=1000"])
def test_what_says_more_of_a_data_set_is_refused_without_one(
    exported: Path, command: str, option: str
) -> None:
    result = run(command, exported, option)
    assert_one_line(result, 2, f"{option.split('=')[0]}: needs --data, the folder of the data set")


def test_a_bundle_is_given_precisions_from_inside_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = run("precision", ".", "--precision", "fp32", "--images", 1)
    assert result.exit_code == 0, result.output
    assert f"{folder}: tiny, " in result.stdout
    assert Bundle.open(folder).manifest.name == "tiny"


@pytest.mark.usefixtures("ready")
def test_a_bundle_is_replaced_from_inside_its_folder(
    checkpoint_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = run("bundle", checkpoint_path, ".", "--force", "--name", "new", "--images", 1)
    assert result.exit_code == 0, result.output
    assert Bundle.open(folder).manifest.name == "new"


@pytest.mark.parametrize("arguments", [("bundle", "best.pt", "out"), ("precision", ".")])
def test_a_folder_that_is_gone_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "replaced").mkdir()
    monkeypatch.chdir(tmp_path / "replaced")
    (tmp_path / "replaced").rmdir()
    assert_one_line(run(*arguments), 2, f"{arguments[-1]}: the folder that this runs in is gone; change into")


@pytest.mark.parametrize("command", ["bundle", "precision"])
def test_a_report_in_the_folder_that_is_replaced_is_refused(
    checkpoint_path: Path, folder: Path, command: str
) -> None:
    first = [checkpoint_path, folder, "--force"] if command == "bundle" else [folder]
    report = folder / "onnx" / ".." / "report.json"
    result = run(command, *first, "--report", report)
    assert_one_line(result, 2, f"--report {report}: lies in {folder}, which is replaced as a whole; give a")
    assert not report.exists()


@pytest.mark.parametrize("arguments", [("verify", ".", "--images", "0"), ("bundle", "a.pt"), ("weave",)])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("edge-export: error: ")
    assert result.stderr.count("\n") == 1


def test_exporting_without_its_extra_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console, "find_spec", lambda name: None if name.startswith("onnx") else object())
    result = run("bundle", "best.pt", tmp_path / "out")
    assert_one_line(result, 1, "onnx, onnxscript, onnxslim not installed; pip install 'edge-purify[export]'")


def test_interrupted(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    def interrupt(folder: Path) -> Bundle:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupt)
    result = run("verify", exported)
    assert (result.exit_code, result.stderr) == (130, "edge-export: stopped\n")


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; from export.cli import main; main()"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_verify_without_torch_replays_the_golden_outputs_and_says_what_it_left_out(exported: Path) -> None:
    result = without_torch("verify", exported)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("off the golden outputs") == 5
    assert "not compared with the torch twin: torch isn't installed" in result.stderr


def test_verify_without_torch_replays_them_through_every_precision(lowered: Path) -> None:
    result = without_torch("verify", lowered)
    assert result.returncode == 0, result.stderr
    assert [result.stdout.count(f" {precision} ") for precision in ("fp32", "fp16", "int8", "int8/cpu")] == [
        5,
        5,
        5,
        5,
    ]


def test_verify_without_torch_still_finds_a_broken_engine(folder: Path) -> None:
    break_engine(folder, "purifier-00")
    result = without_torch("verify", folder)
    assert result.returncode == 3
    assert result.stderr.startswith("edge-export: error: purifier-00: its purified image differs")


def test_verify_on_images_of_a_data_set_without_torch_names_the_extra(lowered: Path) -> None:
    result = without_torch("verify", lowered, "--data", "/absent")
    assert result.returncode == 1
    assert result.stderr == (
        "edge-export: error: edge-export verify: torch not installed; pip install 'edge-purify[export]'\n"
    )


def test_verify_of_a_bundle_without_a_twin(folder: Path) -> None:
    edit_manifest(folder, lambda tree: tree.pop("twin"))
    result = run("verify", folder)
    assert result.exit_code == 0
    assert "not compared with the torch twin: the bundle has no twin" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["engines", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    program = (
        f"import sys\nfrom export.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n"
        "    print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: ")
    assert result.stdout.splitlines()[-1] == "[]"
