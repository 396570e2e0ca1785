"""A small clean-trained REN, exported: the ladder of its engines, its report, and the gate."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from export.signing import sign
from sdk.bundle import Bundle, sha256_of
from sdk.bundle.signature import sign_again
from sdk.errors import UsageError
from tests.sdk.keys import make_keys
from tests.trainer.robustness.helpers import as_target
from trainer.cli import main
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.judges import EngineJudge, TorchJudge
from trainer.robustness.defences.targets import open_target
from trainer.robustness.evaluation.budgets import BUDGETS, RUNGS, Budget
from trainer.robustness.evaluation.evaluate import Evaluation, Settings, evaluate
from trainer.robustness.evaluation.report import Report, from_json, to_json
from trainer.robustness.evaluation.steps import OnProgress
from trainer.robustness.results import plots
from trainer.robustness.results.markdown import render
from trainer.robustness.results.publish import into_bundle

BUDGET = Budget(
    "test",
    tuple(name for name in RUNGS if name != "autoattack"),
    images=30,
    draws=4,
    steps=8,
    samples=3,
    few=10,
    survivors=4,
    targets=2,
    target_steps=8,
    arc_rounds=2,
    queries=60,
    query_draws=2,
    check_images=10,
    sweep=(0.05,),
    suspicion_images=10,
)
BALL = Ball("linf", 0.2)


@pytest.fixture(scope="module")
def few(digits: tuple[Images, Images]) -> Images:
    return digits[1][:30]


@pytest.fixture(scope="module")
def evaluation(ren_bundle: Path, few: Images, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    with open_target(ren_bundle) as target:
        return evaluate(target, few, Settings(BUDGET, BALL, tmp_path_factory.mktemp("work")))


def without_times(report: Report) -> object:
    """The report with every time spent left out."""
    tree = msgspec.to_builtins(report)
    stack = [tree]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            part.pop("seconds", None)
        stack += part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else []
    return tree


def shares(evaluation: Evaluation) -> dict[str, float]:
    return {rung.name: rung.counts.expected.share for rung in evaluation.report.rungs}


def test_the_engines_ladder_against_recorded_floors(evaluation: Evaluation) -> None:
    """Floors are a few points under what was measured; the ceiling is what clean training is worth."""
    left = shares(evaluation)
    absent = ("transfer", "ordinary")  # there is no other precision, and no other network was given
    assert list(left) == [name for name in BUDGET.rungs if name not in absent]
    assert left["clean"] >= 0.93
    assert left["blind"] >= left["pgd"]
    assert left["pgd"] <= 0.10
    assert left["pgd-margin"] <= 0.10
    assert left["apgd-t"] <= left["pgd-margin"]  # it goes on from there
    assert evaluation.report.worst.counts.expected.share <= min(left.values()) + 0.05
    assert evaluation.report.judged_by.startswith("onnxruntime ")
    single = ("blind", "pgd-margin", "pgd", "bpda-shrinkage", "bpda-purifier")
    assert evaluation.report.average == pytest.approx(np.mean([left[name] for name in single]))


def test_white_box_is_no_weaker_than_queries(evaluation: Evaluation) -> None:
    (check,) = (check for check in evaluation.report.checks if check.name.startswith("square finds nothing"))
    assert check.passed


def test_beside_it_stand_the_undefended_and_simple_fronts(evaluation: Evaluation) -> None:
    figures = {baseline.name: baseline.figures for baseline in evaluation.report.baselines}
    assert list(figures) == ["undefended", "bit depth 4", "JPEG 75"]
    assert all(figure["pgd"].share <= 0.3 for figure in figures.values())


def test_suspicion_is_evaded_by_who_knows_of_it(evaluation: Evaluation) -> None:
    area = evaluation.report.suspicion.area
    assert set(area) == {"blind", "evade both"}
    assert all(0 <= value <= 1 for value in area.values())
    for name, roc in evaluation.report.suspicion.roc.items():
        false, true = roc.false_positive_rate, roc.true_positive_rate
        assert len(false) == len(true) == 101
        assert (false[0], false[-1], true[-1]) == (0, 1, 1)
        assert list(true) == sorted(true)
        assert torch.trapezoid(*map(torch.tensor, (true, false))) == pytest.approx(
            area[name], abs=0.1
        )  # of 10 images


def test_a_report_without_the_curve_is_read(evaluation: Evaluation) -> None:
    tree = msgspec.json.decode(to_json(evaluation.report))
    del tree["suspicion"]["roc"]
    old = from_json(msgspec.json.encode(tree))
    assert old.suspicion.area == evaluation.report.suspicion.area
    assert old.suspicion.roc == {}


def test_engines_and_twin_say_the_same(ren: Defence, ren_bundle: Path, few: Images) -> None:
    images, _ = next(few.batches(16))
    with open_target(ren_bundle) as target:
        assert isinstance(target.judge, EngineJudge)
        engines = target.judge.probabilities(images, draws=200, key=(0,)).mean(0)
        raw = target.judge.raw_probabilities(images)
    twin = TorchJudge(ren, "torch")
    assert torch.allclose(raw, twin.raw_probabilities(images), atol=1e-4)
    assert (engines - twin.probabilities(images, draws=200, key=(0,)).mean(0)).abs().max() < 0.1


def test_an_images_draws_do_not_depend_on_its_batch(ren_bundle: Path, few: Images) -> None:
    images, _ = next(few.batches(6))
    with open_target(ren_bundle) as target:
        for judge in (target.judge, TorchJudge(target.twin, "torch")):
            whole = judge.probabilities(images, draws=3, key=(1,))
            part = judge.probabilities(images[4:], draws=3, key=(1,), first=4)
            assert torch.allclose(whole[:, 4:], part, atol=1e-6)
            assert not torch.allclose(whole, judge.probabilities(images, draws=3, key=(2,)), atol=1e-6)


def test_the_report_survives_json_and_reads_worst_first(evaluation: Evaluation) -> None:
    report = evaluation.report
    assert from_json(to_json(report)) == report
    text = render(report)
    assert text.index("per-image worst") < text.index("| clean |")
    assert "eps 51/255" in text
    assert "don't quote it" in text
    with pytest.raises(msgspec.ValidationError, match="eps"):
        from_json(to_json(report).replace(b'"eps": 0.2', b'"eps": "big"', 1))


def test_plots(evaluation: Evaluation, ren: Defence, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need it; pip install 'edge-purify[train]'")
    paths = plots.draw(evaluation.report, evaluation.outcomes, ren, tmp_path)
    assert [path.name for path in paths] == [
        "ladder.png",
        "eps.png",
        "suspicion.png",
        "coverage.png",
        "examples.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_report_is_rendered_without_measuring_again(evaluation: Evaluation, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need it; pip install 'edge-purify[train]'")
    stored, out = tmp_path / "report.json", tmp_path / "out"
    stored.write_bytes(to_json(evaluation.report))
    found = CliRunner().invoke(main, ["render", str(stored), "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert (out / "report.md").read_text() == render(evaluation.report)
    assert {path.name for path in out.glob("*.png")} == {
        "ladder.png",
        "eps.png",
        "suspicion.png",
        "coverage.png",
    }


def test_what_is_no_report_is_not_rendered(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    for name, reason in (("other.json", "not a report"), ("none.json", "can't be read: No such file")):
        found = CliRunner().invoke(main, ["render", str(tmp_path / name), "--out", str(tmp_path / "out")])
        assert found.exit_code == 2
        assert reason in found.output


def test_publishing_keeps_the_bundle_whole(evaluation: Evaluation, ren_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ren_bundle, tmp_path / "bundle"))
    into_bundle(evaluation.report, Bundle.open(folder))
    bundle = Bundle.open(folder)
    (entry,) = bundle.manifest.measured
    assert next(iter(entry["ladder"])) == "per-image worst"
    assert entry["ladder"]["clean"]["share"] == shares(evaluation)["clean"]
    card = bundle.path(bundle.manifest.card).read_text()
    assert "not measured yet" not in card
    assert (
        card.index("## Measured")
        < card.index("images survive the strongest attack")
        < card.index("## Limits")
    )
    again = msgspec.structs.replace(evaluation.report, digest=bundle.digest)
    into_bundle(again, bundle)
    assert len(Bundle.open(folder).manifest.measured) == 1
    with pytest.raises(UsageError, match="evaluate it again"):
        into_bundle(evaluation.report, Bundle.open(folder))


def test_a_quick_look_is_not_published(evaluation: Evaluation, ren_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ren_bundle, tmp_path / "bundle"))
    quick = msgspec.structs.replace(evaluation.report, budget="quick")
    with pytest.raises(UsageError, match="the budget quick attacks too few images") as caught:
        into_bundle(quick, Bundle.open(folder))
    assert caught.value.hint == "give --budget standard or paper"
    assert Bundle.open(folder).manifest.measured == ()
    assert "A quick look" in render(quick)
    assert "A quick look" not in render(evaluation.report)


def test_what_is_published_is_read_from_fields(
    evaluation: Evaluation, ren_bundle: Path, tmp_path: Path
) -> None:
    """Whatever the report's and the card's sentences say."""
    folder = Path(shutil.copytree(ren_bundle, tmp_path / "bundle"))
    card = folder / "MODEL_CARD.md"
    text = card.read_text().replace("not measured yet", "unknown so far")
    card.write_text(text)
    manifest = msgspec.json.decode((folder / "bundle.json").read_bytes())
    manifest["card"]["sha256"] = sha256_of(card)
    (folder / "bundle.json").write_bytes(msgspec.json.encode(manifest))
    bundle = Bundle.open(folder)
    said = msgspec.structs.replace(evaluation.report, digest=bundle.digest, judged_by="the engines, in short")
    into_bundle(said, bundle)
    (entry,) = Bundle.open(folder).manifest.measured
    assert (entry["backend"], entry["precision"]) == ("onnxruntime", "fp32")
    assert "unknown so far" not in card.read_text()
    nameless = msgspec.structs.replace(said, engines=None, digest=Bundle.open(folder).digest)
    with pytest.raises(UsageError, match="doesn't say which engines it is about; evaluate the bundle again"):
        into_bundle(nameless, Bundle.open(folder))


def test_publishing_removes_a_signature_and_says_so(
    evaluation: Evaluation, ren_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(ren_bundle, tmp_path / "bundle"))
    sign(folder, make_keys(tmp_path / "keys").private)
    into_bundle(evaluation.report, Bundle.open(folder))
    assert not Bundle.open(folder).has_signature
    assert caplog.messages == [sign_again(folder)]


def test_a_bundle_without_a_twin_is_attacked_through_its_graphs(
    ren_bundle: Path, few: Images, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(ren_bundle, tmp_path / "bundle"))
    manifest = msgspec.json.decode((folder / "bundle.json").read_bytes())
    manifest["twin"] = None
    (folder / "bundle.json").write_bytes(msgspec.json.encode(manifest))
    budget = msgspec.structs.replace(BUDGET, rungs=("clean", "blind", "pgd-margin", "bpda-shrinkage"))
    reports = []
    for path in (ren_bundle, folder):
        with open_target(path) as target:
            reports.append(evaluate(target, few[:8], Settings(budget, BALL, tmp_path)).report)
    twin, graphs = ({rung.name: rung.counts.expected for rung in report.rungs} for report in reports)
    assert graphs == {name: twin[name] for name in ("clean", "blind", "pgd-margin")}
    assert reports[1].attacked == "its own ONNX graphs in torch, fp32"
    left_out = "bpda-shrinkage: left out, the purifiers' weights aren't in the bundle"
    assert left_out in reports[1].remarks


def test_a_defence_without_randomness_is_drawn_once(undefended: Defence, few: Images, tmp_path: Path) -> None:
    budget = Budget("test", ("clean",), images=4, draws=10)
    target = as_target(undefended, "plain", n_draws=1)
    report = evaluate(target, few[:4], Settings(budget, BALL, tmp_path)).report
    assert report.rungs[0].counts.draws == 1
    assert report.remarks == ("draws: 1 instead of 10, there being no more",)


def test_an_eps_beyond_every_image_is_refused(undefended: Defence, few: Images, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"eps: expected at most 27\.71"):
        evaluate(as_target(undefended, "a"), few, Settings(BUDGETS["clean"], Ball("l2", 128.0), tmp_path))


def test_without_an_attack_there_is_no_worst(ren_bundle: Path, few: Images, tmp_path: Path) -> None:
    with open_target(ren_bundle) as target:
        report = evaluate(target, few, Settings(BUDGETS["clean"], BALL, tmp_path), against=target).report
    assert report.worst is None
    assert report.comparison.worst is None
    assert (report.attacked, report.eps, report.average) == ("nothing", 0.0, None)
    assert "worst" not in render(report)
    assert from_json(to_json(report)) == report


def test_a_killed_evaluation_goes_on_to_the_same_report(
    evaluation: Evaluation, ren_bundle: Path, few: Images, tmp_path: Path
) -> None:
    """Killed in its first, a middle and its last part; each time what was finished is not done again."""
    started: list[str] = []

    class Killed(Exception):
        pass

    def kill_at(part: str) -> OnProgress:
        def on_progress(what: str, done: int, total: int) -> None:
            started.append(what)
            if what == part and done == 0:
                raise Killed

        return on_progress

    with open_target(ren_bundle) as target:
        for part in ("blind", "margin samples x2", "evade both"):
            with pytest.raises(Killed):
                evaluate(target, few, Settings(BUDGET, BALL, tmp_path, on_progress=kill_at(part)))
        resumed = evaluate(target, few, Settings(BUDGET, BALL, tmp_path)).report
    assert (
        started.count("clean") == 2 * 3
    )  # begun and finished in each run, though only computed in the first
    assert without_times(resumed) == without_times(evaluation.report)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda few: few[:0], "expected at least one"),
        (
            lambda few: Images(few.pixels[:, :, :8], few.targets, few.labels),
            "expects 16 x 16 pixels, got 8 x 16",
        ),
        (lambda few: Images(few.pixels, few.targets, ("a", "b")), "their labels don't fit ren-digits"),
    ],
)
def test_refuses_images_that_do_not_fit(
    change: object, reason: str, ren_bundle: Path, few: Images, tmp_path: Path
) -> None:
    with open_target(ren_bundle) as target, pytest.raises(UsageError, match=reason):
        evaluate(target, change(few), Settings(BUDGET, BALL, tmp_path))


def test_budgets_are_those_of_the_specification() -> None:
    assert list(BUDGETS) == ["clean", "quick", "standard", "paper"]
    assert (BUDGETS["quick"].steps, BUDGETS["quick"].samples, BUDGETS["quick"].images) == (20, 8, 128)
    assert (BUDGETS["standard"].steps, BUDGETS["standard"].samples) == (40, 16)
    assert (BUDGETS["paper"].steps, BUDGETS["paper"].samples, BUDGETS["paper"].few) == (200, 20, 1000)


def test_every_attacking_budget_climbs_the_margin_on_every_image() -> None:
    for budget in BUDGETS.values():
        assert ("pgd-margin" in budget.rungs) == (budget.name != "clean")
    for name in ("standard", "paper"):
        assert {"apgd-t", "autoattack"} <= set(BUDGETS[name].rungs)
    assert (BUDGETS["standard"].targets, BUDGETS["standard"].target_steps) == (3, 50)
    assert BUDGETS["standard"].survivors == 50
    assert BUDGETS["paper"].survivors >= BUDGETS["paper"].images
