"""What ``edge-train evaluate`` does between its options and its output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from sdk.errors import UsageError
from trainer.data import DataSet, Images, open_dataset
from trainer.robustness import gate, plots
from trainer.robustness.ball import Ball
from trainer.robustness.budgets import BUDGETS
from trainer.robustness.evaluate import Evaluation, Settings, check_fit, evaluate
from trainer.robustness.ladder import OnProgress
from trainer.robustness.markdown import render
from trainer.robustness.publish import into_bundle
from trainer.robustness.report import Report, to_json
from trainer.robustness.targets import Target, open_target


@dataclass(frozen=True)
class Request:
    """The command's options."""

    target: Path
    data: Path
    dataset: str | None
    images: int | None
    draws: int | None
    budget: str
    norm: str
    eps: str
    seed: int
    against: Path | None
    backend: str
    precision: str
    work: Path


@dataclass(frozen=True)
class Outputs:
    """Where the outcome goes, beside the terminal; None for nowhere."""

    json: Path | None
    report: Path | None
    record: Path | None
    into_bundle: bool


def run(request: Request, outputs: Outputs, on_progress: OnProgress) -> Report:
    """Measure, and write what is asked for.

    Raises:
        EdgePurifyError: whatever is wrong with the options, the target or the data.
    """
    ball = Ball(request.norm, parse_eps(request.eps))
    budget = BUDGETS[request.budget]
    if request.draws is not None:
        budget = msgspec.structs.replace(budget, draws=request.draws)
    settings = Settings(budget, ball, request.work, request.seed, on_progress)
    with open_target(request.target, backend=request.backend, precision=request.precision) as target:
        if request.draws is not None and request.draws > target.n_draws:
            raise UsageError(f"--draws {request.draws}: {target.name} has {target.n_draws} different draws")
        if outputs.into_bundle and target.bundle is None:
            raise UsageError(f"--into-bundle: {request.target} is a checkpoint, expected a bundle")
        images = read_images(request, target, request.images or budget.images)
        if request.against is None:
            found = evaluate(target, images, settings)
        else:
            with open_target(request.against, backend=request.backend) as other:
                found = evaluate(target, images, settings, against=other)
        _write(found, target, images, settings, outputs)
    return found.report


def hold_gate(
    path: Path, target: Path, *, backend: str, precision: str, on_progress: OnProgress
) -> dict[str, float]:
    """``gate.hold`` on a target that is opened for it."""
    with open_target(target, backend=backend, precision=precision) as opened:
        return gate.hold(path, opened, on_progress=on_progress)


def parse_eps(text: str) -> float:
    """``8/255`` or ``0.0314`` as a number.

    Raises:
        UsageError: it is neither.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(
            f"--eps {text}: expected a number such as 0.0314, or a fraction such as 8/255"
        ) from None


def read_images(request: Request, target: Target, count: int | None) -> Images:
    """The first ``count`` test images of the data set that the target was trained on, or that was named; all
    by default.

    Raises:
        UsageError: no data set is known for the target, it has fewer images, or they don't fit.
        DataError: it is absent or damaged.
    """
    name = request.dataset or target.provenance.get("config", {}).get("data", {}).get("name")
    if name is None:
        raise UsageError(f"--dataset: {target.name} doesn't say what it was trained on; name the data set")
    dataset: DataSet = open_dataset(name, request.data, "test", image_size=target.height)
    if count is not None and count > len(dataset):
        raise UsageError(f"--images {count}: {name} in {request.data} has {len(dataset)} test images")
    images = dataset[slice(0, count)]
    check_fit(target, images)
    return images


def _write(found: Evaluation, target: Target, images: Images, settings: Settings, outputs: Outputs) -> None:
    try:
        if outputs.json is not None:
            outputs.json.write_bytes(to_json(found.report))
        if outputs.report is not None:
            outputs.report.mkdir(parents=True, exist_ok=True)
            (outputs.report / "report.json").write_bytes(to_json(found.report))
            (outputs.report / "report.md").write_text(render(found.report), encoding="utf-8")
            plots.draw(found.report, found.outcomes, target.twin, outputs.report)
    except OSError as error:
        raise UsageError(f"{error.filename}: can't be written: {error.strerror}") from None
    if outputs.record is not None:
        draws, seed = min(settings.budget.draws, target.n_draws), settings.seed
        gate.record(outputs.record, target, found.outcomes, images.targets, draws=draws, seed=seed)
    if outputs.into_bundle and target.bundle is not None:
        into_bundle(found.report, target.bundle)
