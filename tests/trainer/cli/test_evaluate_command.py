"""``edge-train evaluate`` as a user meets it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from export.bundle.add_precisions import Lowering, lower_bundle
from sdk.errors import UsageError
from trainer.cli import main
from trainer.cli.evaluation import parse_eps
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.evaluation.evaluate import Settings
from trainer.robustness.evaluation.report import from_json
from trainer.robustness.results.gate import Change


def assert_one_line(found: Result, reason: str) -> None:
    (line,) = found.output.strip().splitlines()
    assert line.startswith("edge-train: error: ")
    assert re.search(reason, line)


def run(*arguments: object) -> Result:
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    finally:
        torch.set_num_threads(threads)


def test_clean_budget_writes_json(bundle: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "clean.json"
    found = run(bundle, "--data", data, "--budget", "clean", "--work", tmp_path, "--json", path)
    assert found.exit_code == 0, found.output
    assert "of 8 clean images are recognized" in found.output
    report = from_json(path.read_bytes())
    assert [rung.name for rung in report.rungs] == ["clean"]
    assert report.images == 8
    assert report.baselines[0].name == "undefended"


def test_quick_budget_writes_a_report_and_a_record(bundle: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need it; pip install 'edge-purify[train]'")
    options = ("--data", data, "--images", 2, "--work", tmp_path / "work")
    found = run(bundle, *options, "--report", tmp_path / "report", "--record", tmp_path / "stored.npz")
    assert found.exit_code == 0, found.output
    assert "images survive the strongest attack on each** (linf, eps 8/255)" in found.output
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {
        "report.json",
        "report.md",
        "ladder.png",
    }
    held = run(bundle, "--data", data, "--gate", tmp_path / "stored.npz", "--json", tmp_path / "gate.json")
    assert held.exit_code == 0, held.output
    changes = msgspec.json.decode((tmp_path / "gate.json").read_bytes(), type=list[Change])
    assert [change.rung for change in changes] == ["clean", "blind", "pgd-margin", "pgd", "bpda-purifier"]
    assert {change.points for change in changes} == {0.0}
    assert re.search(r"^pgd +(\d+\.\d %), now \1: \+0\.0 points$", held.output, re.MULTILINE)


@pytest.fixture(scope="module")
def recorded(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with figures and a record inside."""
    folder = tmp_path_factory.mktemp("recorded")
    copy = Path(shutil.copytree(bundle, folder / "tiny"))
    options = ("--data", data, "--budget", "clean", "--work", folder / "work", "--into-bundle", "--record")
    found = run(copy, *options)
    assert found.exit_code == 0, found.output
    return copy


def test_a_bundle_is_held_to_the_record_inside_it(recorded: Path, data: Path) -> None:
    assert (recorded / "robustness.npz").is_file()
    held = run(recorded, "--data", data, "--gate")
    assert held.exit_code == 0, held.output
    assert re.fullmatch(r"clean +\S+ %, now \S+ %: \+0\.0 points\n", held.output)


def test_a_bundle_that_recognizes_less_fails_the_gate(recorded: Path, data: Path, tmp_path: Path) -> None:
    """The record says that every image was recognized, which an untrained network won't keep up."""
    with np.load(recorded / "robustness.npz") as stored:
        arrays = {name: np.ones_like(a) if name.startswith("chance/") else a for name, a in stored.items()}
    np.savez(tmp_path / "perfect.npz", **arrays)
    report = tmp_path / "gate.json"
    held = run(recorded, "--data", data, "--gate", tmp_path / "perfect.npz", "--json", report)
    assert held.exit_code == 3
    (change,) = msgspec.json.decode(report.read_bytes(), type=list[Change])
    assert change.before == 1 > change.now
    assert_one_line(
        held, r"tiny, fp32: recognizes fewer images than .*perfect\.npz has on record, .*: clean -\d"
    )


def test_a_changed_record_is_a_damaged_bundle(recorded: Path, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(recorded, tmp_path / "tiny"))
    with (copy / "robustness.npz").open("ab") as stream:
        stream.write(b"more")
    held = run(copy, "--data", data, "--gate")
    assert held.exit_code == 1
    assert_one_line(held, r"robustness\.npz is damaged or changed")


def test_a_gate_on_other_images_is_refused(recorded: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    file = other / "cifar-10-batches-bin" / "test_batch.bin"
    pixels = bytearray(file.read_bytes())
    pixels[100] ^= 1
    file.write_bytes(pixels)
    held = run(recorded, "--data", other, "--gate")
    assert held.exit_code == 2
    assert_one_line(held, r"robustness\.npz: its 8 images are others than those in --data")


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (
            ("--budget", "quick", "--into-bundle"),
            2,
            "too weakly for a figure to quote; give --budget standard",
        ),
        (("--eps", "8"), 2, "for 8 grey levels of 255 give 8/255"),
        (("--eps", "-1/255"), 2, "eps: expected a positive number"),
        (("--eps", "eight"), 2, "--eps eight: expected a number such as 0.0314, or a fraction such as 8/255"),
        (("--images", "9"), 2, "--images 9: cifar10 in .* has 8 test images"),
        (("--dataset", "mnist"), 2, "data set 'mnist': expected one of"),
        (("--precision", "int4"), 2, "'int4' is not one of 'auto', 'fp32', 'fp16', 'int8'"),
        (("--draws", "5000"), 2, "--draws 5000: tiny has 1104 different draws"),
        (("--against", "nowhere"), 2, "nowhere: no such file or folder"),
        (("--norm", "l2", "--eps", "128"), 2, r"eps: expected at most 55\.43, .* got 128; 128/255 is usual"),
        (("--json", "."), 2, r"--json \.: can't be written: is a folder"),
        (("--report", "/dev/null/x"), 2, "--report /dev/null/x: can't be written: Not a directory"),
        (("--record", "/dev/null/x"), 2, "--record /dev/null/x: can't be written: Not a directory"),
    ],
)
def test_refusals_are_one_line(
    options: tuple[str, ...], code: int, reason: str, bundle: Path, data: Path, tmp_path: Path
) -> None:
    budget = () if "--budget" in options else ("--budget", "clean")
    found = run(bundle, "--data", data, "--work", tmp_path, *budget, *options)
    assert found.exit_code == code
    assert_one_line(found, reason)


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--gate",), 2, "--gate: tiny is a bundle without a record; make one by --record"),
        (("--gate", "nowhere"), 1, "nowhere: can't be read: No such file"),
        (("--gate", "--record"), 2, "--gate and --record: expected one of them"),
        (("--gate", "--report", "report"), 2, "--gate and --report: expected one of them"),
        (("--gate", "--into-bundle"), 2, "--gate and --into-bundle: expected one of them"),
        (("--gate", "--against", "other"), 2, "--gate and --against: expected one of them"),
        (("--gate", "--images", "4"), 2, "--gate and --images: expected one of them"),
        (("--gate", "--draws", "4"), 2, "--gate and --draws: expected one of them"),
        (("--gate", "--budget", "quick"), 2, "--gate and --budget: expected one of them"),
        (("--gate", "--norm", "linf"), 2, "--gate and --norm: expected one of them"),
        (("--gate", "--eps", "8/255"), 2, "--gate and --eps: expected one of them"),
        (("--gate", "--seed", "0"), 2, "--gate and --seed: expected one of them"),
    ],
)
def test_refusals_of_a_gate_are_one_line(
    options: tuple[str, ...], code: int, reason: str, bundle: Path, data: Path
) -> None:
    found = run(bundle, "--data", data, *options)
    assert found.exit_code == code
    assert_one_line(found, reason)


def test_a_gate_whose_json_cannot_be_written_is_one_line(recorded: Path, data: Path) -> None:
    found = run(recorded, "--data", data, "--gate", "--json", ".")
    assert found.exit_code == 2
    assert_one_line(found, r"--json \.: can't be written: is a folder")


def test_what_cannot_be_written_is_told_before_the_work(bundle: Path, data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("kept")
    options = ("--data", data, "--budget", "clean", "--work", tmp_path / "work")
    found = run(bundle, *options, "--json", kept, "--record", tmp_path / "nowhere" / "record.npz")
    assert found.exit_code == 2
    assert_one_line(found, r"--record .*nowhere/record\.npz: can't be written: No such file or directory")
    assert not (tmp_path / "work").exists()
    assert kept.read_text() == "kept"


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 128 / 255)])
def test_eps_is_customary_in_its_norm(
    norm: str, eps: float, bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Ball] = []

    def stop(target: object, images: object, settings: Settings) -> None:
        made.append(settings.ball)
        raise UsageError("stopped")

    monkeypatch.setattr("trainer.cli.evaluation.evaluate", stop)
    run(bundle, "--data", data, "--images", 2, "--norm", norm, "--work", tmp_path)
    assert made == [Ball(norm, eps)]


def test_another_bundle_is_judged_in_the_same_precision(bundle: Path, data: Path, tmp_path: Path) -> None:
    """Where it has it; otherwise the report says what judged it."""
    lowered = Path(shutil.copytree(bundle, tmp_path / "lowered"))
    lower_bundle(lowered, Lowering(("fp16",)), n_images=4)
    remarks = []
    for other in (lowered, bundle):
        options = ("--data", data, "--budget", "clean", "--work", tmp_path / "work", "--precision", "fp16")
        found = run(
            lowered, *options, "--backend", "onnxruntime", "--against", other, "--json", tmp_path / "a"
        )
        assert found.exit_code == 0, found.output
        remarks.append(from_json((tmp_path / "a").read_bytes()).comparison.remarks)
    assert remarks[0] == ()
    assert re.fullmatch(r"judged by onnxruntime \S+ fp32 engines", *remarks[1])


def test_needs_data_and_a_target(bundle: Path, tmp_path: Path) -> None:
    assert "--data: missing; name the folder with the data set" in run(bundle).output
    missing = run(tmp_path / "nothing", "--data", tmp_path)
    assert missing.exit_code == 2
    assert "no such file or folder; give a bundle's folder or a checkpoint" in missing.output


@pytest.mark.parametrize(("text", "eps"), [("8/255", 8 / 255), ("0.03", 0.03), ("1", 1.0)])
def test_eps_as_number_or_fraction(text: str, eps: float) -> None:
    assert parse_eps(text) == eps


@pytest.mark.parametrize("text", ["8/0", "", "8/255/2", "a"])
def test_eps_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number such as"):
        parse_eps(text)


def test_the_command_starts_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Its module and the command have one name in ``trainer.cli``, so an import may find the other one."""
    command = [
        sys.executable,
        "-m",
        "trainer.cli",
        "evaluate",
        str(tmp_path / "none"),
        "--data",
        str(tmp_path),
    ]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("edge-train: error: ")
    assert "no such file or folder; give a bundle's folder" in found.stderr
