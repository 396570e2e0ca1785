"""The gates of lower precisions: what they measure, what they refuse, and what they leave behind."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from export.bundle.add_precisions import Lowering, lower_bundle
from export.checks import verify
from export.checks.gate import gate
from export.inputs import calibration
from export.inputs.calibration import from_dataset
from export.inputs.labelled import Labelled
from sdk.bundle import MANIFEST, Bundle
from sdk.bundle.deviation import BOUNDS, Deviation, deviation
from sdk.errors import GateError, UsageError
from tests.export.cli.helpers import assert_one_line, run
from tests.export.helpers import names_in, tree
from tests.export.spoil import edit_manifest


@pytest.fixture
def copy(lowered: Path, tmp_path: Path) -> Path:
    """A copy of the bundle with every precision, to be spoilt."""
    return Path(shutil.copytree(lowered, tmp_path / "tiny"))


def test_a_bundle_of_every_precision_passes_and_records_what_was_measured(lowered: Path) -> None:
    bundle = Bundle.open(lowered)
    recorded = bundle.manifest.provenance["precisions"]
    ids = [engine.id for engine in bundle.manifest.engines]
    assert sorted(recorded) == ["fp16", "int8"]
    for precision, record in recorded.items():
        assert list(record["parity"]) == list(record["engines"]) == ids
        assert all(found["max_abs"] > 0 for found in record["parity"].values())
        assert record["accuracy"] == []
        assert sorted(tree(lowered)) == sorted([MANIFEST, *(file.file for file in bundle.manifest.files())])
        assert all(precision in engine.onnx for engine in bundle.manifest.purifiers)


def test_the_card_says_what_was_measured_and_what_was_not(lowered: Path) -> None:
    card = (lowered / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.count("## Lower precisions") == 1
    assert card.index("## Lower precisions") < card.index("## Threat model")
    for claim in ("**FP16**: ", "**INT8**: ", "calibrated on 160 self-made pictures", "top-1 agreement"):
        assert claim in card
    assert card.count("accuracy: not measured, there were no labelled images") == 2
    assert '"error_by_method"' not in card  # has its own section, not a dump of the provenance


def test_adding_precisions_again_replaces_them_and_their_section(copy: Path) -> None:
    lower_bundle(copy, Lowering(("fp16",)))
    card = (copy / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.count("## Lower precisions") == card.count("**FP16**: ") == card.count("**INT8**: ") == 1
    Bundle.open(copy)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_broken_engine_of_a_lower_precision_is_named_with_its_worst_layers(
    copy: Path, precision: str
) -> None:
    """It is another classifier's: its hash fits, and FP32 is as it was."""
    onnx = copy / "onnx"
    shutil.copy(onnx / f"classifier-00.{precision}.onnx", onnx / f"classifier-01.{precision}.onnx")
    edit_manifest(
        copy,
        lambda manifest: manifest["classifiers"][1]["onnx"][precision].update(
            sha256=manifest["classifiers"][0]["onnx"][precision]["sha256"]
        ),
    )
    result = run("verify", copy)
    assert_one_line(
        result,
        3,
        f"classifier-01 in {precision}: its logits",
        "worst layers: ",
        "% off)",
        f"leave {precision} out",
    )


def test_a_failed_gate_leaves_the_bundle_as_it_was_and_writes_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOUNDS, ("int8", "purified image"), type(BOUNDS["int8", "logits"])(1e-9, 1e-9, 0.0))
    before, report = tree(folder), folder.parent / "report.xml"
    with pytest.raises(GateError, match=r"^purifier-00 in int8: .*worst layers: Conv") as caught:
        lower_bundle(folder, Lowering(("fp16", "int8")), n_images=4, report=report)
    assert caught.value.exit_code == 3
    assert tree(folder) == before
    assert sorted(names_in(folder.parent)) == ["report.xml", "tiny"]
    suite = ElementTree.parse(report).getroot()
    failed = [case for case in suite if case.find("failure") is not None]
    assert int(suite.attrib["failures"]) == len(failed) > 0
    assert {case.attrib["classname"] for case in failed} >= {"int8.purifier-00"}
    assert not [case for case in failed if not case.attrib["classname"].startswith("int8.purifier")]


def test_an_interrupted_conversion_leaves_the_bundle_as_it_was(folder: Path) -> None:
    def interrupt(step: str) -> None:
        if step == "classifier-00 int8":
            raise KeyboardInterrupt

    before = tree(folder)
    with pytest.raises(KeyboardInterrupt):
        lower_bundle(folder, Lowering(("int8",)), on_step=interrupt)
    assert tree(folder) == before
    assert names_in(folder.parent) == ["tiny"]


def test_the_report_as_json_holds_every_figure(lowered: Path, tmp_path: Path) -> None:
    result = run("verify", lowered, "--images", 4, "--report", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "accuracy of the lower precisions: not measured; give --data" in result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["bundle"], report["passed"], report["complaints"]) == ("tiny", True, [])
    assert {found["precision"] for found in report["deviations"]} == {"fp32", "fp16", "int8"}
    assert {found["against"] for found in report["deviations"]} == {"twin", "golden outputs", "FP32 engine"}


@pytest.mark.parametrize(
    ("report", "complaint"),
    [("report.txt", "ends in .json or .xml"), ("absent/report.xml", "absent doesn't exist; create it first")],
)
def test_a_report_that_cannot_be_written_is_refused_first(
    lowered: Path, tmp_path: Path, report: str, complaint: str
) -> None:
    assert_one_line(run("verify", lowered, "--report", tmp_path / report), 2, complaint)


def test_a_precision_that_is_unknown_is_wrong_usage(folder: Path) -> None:
    assert_one_line(
        run("precision", folder, "--precision", "fp16,int4"), 2, "some of fp32,fp16,int8, each once"
    )


def test_precision_command_adds_both_to_a_bundle(folder: Path) -> None:
    result = run("precision", folder, "--precision", "fp16", "--images", 2, "--json")
    assert result.exit_code == 0, result.output
    assert {found["precision"] for found in json.loads(result.stdout)["deviations"]} == {"fp32", "fp16"}


# the bounds


def test_top_1_agreement_is_gated_beside_the_error() -> None:
    rows = np.eye(4, dtype=np.float32)[np.arange(100) % 4] * 4
    rolled = rows + np.float32(0.01)
    found = deviation("classifier-00", "logits", "FP32 engine", rolled, rows, "fp16", top1=0.97)
    assert found.unit == pytest.approx(float(rows.std()))
    with pytest.raises(
        GateError, match=r"in the most likely class of 3\.0% of 100 draws, expected at most 2%"
    ):
        gate([found])


def test_a_small_error_everywhere_fails_by_its_mean() -> None:
    zeros = np.zeros((8, 3, 4, 4), np.float32)
    found = deviation(
        "purifier-00", "purified image", "FP32 engine", zeros + np.float32(0.005), zeros, "fp16"
    )
    assert found.max_abs <= BOUNDS["fp16", "purified image"].max_abs
    assert "by 5.0e-03 on average over 8 draws" in str(found.complaint)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_not_a_number_is_never_within_a_bound(precision: Any) -> None:
    assert Deviation("purifier-00", "purified image", "twin", math.nan, 64, precision, math.nan).complaint


# the images


def image_folders(root: Path, classes: tuple[str, ...], count: int) -> Path:
    import cv2

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for place in range(count):
                pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
                cv2.imwrite(str(root / split / name / f"{place}.png"), pixels)
    return root


def test_a_data_set_calibrates_with_training_images_and_judges_with_test_images(
    lowered: Path, tmp_path: Path
) -> None:
    root = image_folders(tmp_path / "data", ("cat", "dog", "ship", "truck"), count=6)
    pictures = from_dataset(Bundle.open(lowered), root, "imagenet", n_accuracy=10)
    assert pictures.says == "24 training images of imagenet"
    assert pictures.calibration.shape == (24, 3, 16, 16)
    (clean,) = pictures.labelled
    assert (clean.says, clean.images.shape) == ("clean", (10, 3, 16, 16))
    assert set(clean.labels.tolist()) == {0, 1, 2, 3}, "the first test images are of all classes"
    assert not np.isin(clean.images[0].sum(), pictures.calibration.sum(axis=(1, 2, 3)))


def test_a_precision_is_judged_on_the_pictures_given_and_not_on_synthetic_ones(
    lowered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[str] = []
    compared: list[np.ndarray] = []

    def replay(bundle: Bundle, backend: Any, golden: object) -> list[Deviation]:
        replayed.append(backend.precision)
        return []

    def parity(bundle: Bundle, low: object, full: object, images: np.ndarray) -> list[Deviation]:
        compared.append(images)
        return []

    monkeypatch.setattr(verify, "replay", replay)
    monkeypatch.setattr(verify, "parity_fp32", parity)
    images = np.random.default_rng(0).random((6, 3, 16, 16), np.float32)
    given = Labelled("clean", images, np.zeros(6, np.int64))
    verify.examine(Bundle.open(lowered), n_images=4, labelled=(given,), compare_fp32=lambda *both: [])
    assert set(replayed) == {"fp32"}, "golden images are made by rule"
    assert len(compared) >= 2
    assert all(np.array_equal(each, images[:4]) for each in compared)


def test_a_data_set_of_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    root = image_folders(tmp_path / "data", ("cat", "fox"), count=1)
    result = run("precision", folder, "--data", root, "--dataset", "imagenet")
    assert_one_line(result, 1, "fox: a class that data.classes lacks; expected the name of a class")


def test_a_bundle_that_does_not_say_its_data_set_needs_it_named(lowered: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--dataset: tiny doesn't say what it was trained on"):
        from_dataset(Bundle.open(lowered), tmp_path)


@pytest.mark.parametrize("count", [1, 3])
def test_a_handful_of_images_still_calibrates(
    folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(calibration, "N_CALIBRATION", count)
    lower_bundle(folder, Lowering(("int8",)), n_images=8)
    recorded = Bundle.open(folder).manifest.provenance["precisions"]["int8"]
    assert recorded["calibrated_on"] == f"{count} self-made pictures"
    assert all(0 < engine["error"] < 0.2 for engine in recorded["engines"].values())


def test_figures_of_engines_that_are_made_anew_are_dropped_and_others_are_kept(folder: Path) -> None:
    figures = [{"precision": precision, "backend": "onnxruntime"} for precision in ("fp32", "fp16", "int8")]
    edit_manifest(folder, lambda manifest: manifest.update(measured=figures))
    lower_bundle(folder, Lowering(("fp16",)), n_images=2)
    assert [entry["precision"] for entry in Bundle.open(folder).manifest.measured] == ["fp32", "int8"]
    edit_manifest(folder, lambda manifest: manifest.update(measured=figures))
    lower_bundle(folder, Lowering(("fp16",)), n_images=2)  # the same bytes as before
    assert len(Bundle.open(folder).manifest.measured) == 3
