"""``edge-protect`` from end to end: a folder of pictures and a classifier become a measured bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from export.cli.protect import main
from export.external_classifier.classifier import ForeignClassifier, read_labels
from export.external_classifier.conventions import Conventions
from export.protect import measurement, steps
from export.protect.plan import Plan, Stage
from sdk import Purifier
from sdk.bundle import Bundle, sha256_of
from tests.export.protect.conftest import LABELS, MEAN, SIDE, STD, Brought
from trainer import checkpoint
from trainer.cli import main as train
from trainer.robustness.evaluation.budgets import BUDGETS

SHORT = Stage(epochs=1, epoch_steps=3, save_every=1, seconds=1.0)
OPTIONS = ("--hours", "0.1", "--images", "6")


def protect(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps a stage, whatever this machine's rate is, MAEP's from a bank; weak attacks after that."""

    def make(setting: steps.Setting, *rest: object, **options: object) -> Plan:
        return Plan(setting.family, setting.family == "maep", 1.0, SHORT, SHORT, 1.0)

    monkeypatch.setattr(steps.plan, "make", make)
    weak = msgspec.structs.replace(BUDGETS["quick"], steps=2, check_images=2)
    monkeypatch.setitem(measurement.BUDGETS, "quick", weak)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles of this file are made: one after the other, so that they find each other."""
    return tmp_path_factory.mktemp("protected")


def test_a_classifier_that_stays_is_the_same_to_the_byte(brought: Brought, place: Path) -> None:
    result = protect(*brought.arguments, *OPTIONS, "--out", place / "frozen")
    assert result.exit_code == 0, result.output
    given = ForeignClassifier(brought.classifier, LABELS, Conventions((MEAN,) * 3, (STD,) * 3))
    engine = place / "expected.onnx"
    engine.write_bytes(given.engine_bytes("classifier-00"))
    bundle = Bundle.open(place / "frozen")
    (classifier,) = bundle.manifest.classifiers
    assert classifier.onnx["fp32"].sha256 == sha256_of(engine), "what it was before any training"
    assert bundle.manifest.provenance["classifier_given"]["sha256"] == sha256_of(brought.classifier)
    assert (bundle.manifest.name, bundle.manifest.family, bundle.labels) == ("my-net", "maep", LABELS)
    for file in ("bundle.json", "MODEL_CARD.md"):
        assert str(place) not in (place / "frozen" / file).read_text(encoding="utf-8"), "whose machine it was"
    assert "too few pictures to tell" in result.stdout, "36 pictures can't prove that FP16 costs nothing"


def test_it_prints_and_keeps_before_and_after(brought: Brought, place: Path) -> None:
    """Given again it measures nothing, and says the same."""
    result = protect(*brought.arguments, *OPTIONS, "--out", place / "frozen")
    assert result.exit_code == 0, result.output
    table = result.stdout.splitlines()
    assert table[0].split() == ["attack", "undefended", "defended"]
    assert [line.split()[0] for line in table[1:4]] == ["clean", "blind", "adaptive"]
    bundle = Bundle.open(place / "frozen")
    (measured,) = bundle.manifest.measured
    assert measured["budget"] == "quick"
    assert {"clean", "blind", "pgd", "per-image worst"} <= measured["ladder"].keys()
    card = (place / "frozen/MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# my-net\n")
    assert table[3].split(maxsplit=1)[1].split("  ")[0] in card, "the undefended figure under attack"
    assert (place / "frozen/figures/ladder.png").stat().st_size > 1000
    uncovered = [file.file for file in bundle.coverage() if not file.is_covered]
    assert not uncovered, "what the card shows is under the hashes too"
    with Purifier.load(place / "frozen", seed=1) as purifier:
        assert purifier(np.full((40, 50, 3), 90, np.uint8)).label in LABELS


def test_a_stage_can_be_run_alone(brought: Brought, place: Path, tmp_path: Path) -> None:
    stage = place / "my-net.work/adapt-none/1-blind.toml"
    alone = ("--data", brought.pictures, "--out", tmp_path / "run", "--set", "optimizer.epoch_steps=1")
    result = CliRunner().invoke(train, ["fit", str(stage), *map(str, alone)])
    assert result.exit_code == 0, result.output
    found = checkpoint.load(tmp_path / "run/last.pt")
    assert (found["position"]["step"], found["labels"]) == (1, list(LABELS))


def test_an_adapted_classifier_is_another_and_stands_beside_the_first(brought: Brought, place: Path) -> None:
    result = protect(*brought.arguments, *OPTIONS, "--adapt", "classifier", "--out", place / "adapted")
    assert result.exit_code == 0, result.output
    assert "ren, adapt classifier  maep, adapt none" in result.stdout.splitlines()[0]
    engines = [
        Bundle.open(place / name).manifest.classifiers[0].onnx["fp32"] for name in ("frozen", "adapted")
    ]
    assert engines[0].sha256 != engines[1].sha256
    assert (place / "my-net.work/adapt-classifier/2-adversarial.toml").is_file()


def test_other_options_in_the_same_work_are_refused(brought: Brought, place: Path) -> None:
    result = protect(*brought.arguments, "--hours", 0.2, "--images", 6, "--out", place / "other")
    assert_one_line(result, 2, "it holds work with another --hours: 0.1, now 0.2; give the options")
    assert not (place / "other").exists()


def test_a_stopped_command_goes_on_where_it_was(
    brought: Brought, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second stage's training: the first isn't trained again, and the end is the same."""
    line = (*brought.arguments, *OPTIONS, "--family", "ren", "--out", tmp_path / "out")
    begun: list[tuple[str, bool]] = []
    whole = steps.fit

    def fit(config: object, training: object, validation: object, out: Path, **options: object) -> Path:
        begun.append((out.name, bool(options["resume"])))
        if out.name == steps.ADVERSARIAL and len(begun) == 2:

            def stop(progress: object) -> None:
                if progress.step == 2:  # type: ignore[attr-defined]
                    raise KeyboardInterrupt

            options["report"] = stop
        return whole(config, training, validation, out, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "fit", fit)
    stopped = protect(*line)
    assert stopped.exit_code == 130, stopped.output
    assert "edge-protect: stopped; the same command goes on from what is in " in stopped.stderr
    assert not (tmp_path / "out").exists()
    result = protect(*line)
    assert result.exit_code == 0, result.output
    assert begun == [(steps.BLIND, False), (steps.ADVERSARIAL, False), (steps.ADVERSARIAL, True)]
    assert Bundle.open(tmp_path / "out").manifest.family == "ren"


def assert_one_line(result: Result, exit_code: int, *parts: str) -> None:
    assert result.exit_code == exit_code, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("edge-protect: error: ")]
    assert len(said) == 1, result.stderr
    assert result.stdout == ""
    for part in parts:
        assert part in said[0], said[0]


def test_what_is_impossible_is_one_line_before_any_work(brought: Brought, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((*brought.arguments, *out, "--hours", 0), 2, "--hours 0: expected 0.001 to 1000"),
        ((*brought.arguments, *out, "--split", 1), 2, "--split 1: expected a share above 0 and below 1"),
        ((*brought.arguments, *out, "--eps", 2), 2, "--eps 2: expected a bound above 0"),
        ((*brought.arguments, "--out", tmp_path / "taken"), 2, "taken: something is there already"),
        ((*brought.arguments, "--out", tmp_path / "no/out"), 2, "no doesn't exist; create it first"),
        ((brought.classifier, "--pictures", brought.pictures, *out), 2, "no labels; give its labels too"),
        (("absent.onnx", *brought.arguments[1:], *out), 2, "classifier absent.onnx: no such file"),
        (
            (brought.classifier, "--pictures", tmp_path / "empty", "--labels", brought.labels, *out),
            1,
            "no image folders in",
        ),
    ]
    for arguments, code, complaint in cases:
        assert_one_line(protect(*arguments, "--work", tmp_path / "work"), code, complaint)
        shutil.rmtree(tmp_path / "work", ignore_errors=True)


def test_a_wrong_order_of_labels_stops_with_the_reason(brought: Brought, tmp_path: Path) -> None:
    """The file's order is what the scores mean: by the folders' names the labels would be sorted."""
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(sorted(LABELS)))
    arguments = [labels if each == brought.labels else each for each in brought.arguments]
    result = protect(*arguments, "--out", tmp_path / "out")
    assert_one_line(
        result, 3, "clean pictures; by chance it would be on 33.3%", "--labels is in another order"
    )
    assert read_labels(labels) != LABELS
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["ren", "maep"])
def test_images_of_unequal_sides_are_trained_on_and_measured(
    brought: Brought, tmp_path: Path, family: str
) -> None:
    model = onnx.load(brought.classifier)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = SIDE - 3
    onnx.save(model, tmp_path / "wide.onnx")
    out = tmp_path / "out"
    result = protect(
        tmp_path / "wide.onnx", *brought.arguments[1:], *OPTIONS, "--family", family, "--out", out
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(out)
    assert (bundle.manifest.image.height, bundle.manifest.image.width) == (SIDE - 3, SIDE)
    assert bundle.manifest.measured[0]["ladder"].keys() >= {"clean", "blind", "pgd"}
    with Purifier.load(out, seed=1) as purifier:
        assert purifier(np.full((40, 50, 3), 90, np.uint8)).label in LABELS
