"""What ``edge-train evaluate`` does between its options and its output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from sdk.backends import open_backend
from sdk.bundle import Bundle, Precision
from sdk.errors import UsageError
from trainer.data import DataSet, Images, open_dataset
from trainer.robustness import gate, plots, record
from trainer.robustness.ball import Ball
from trainer.robustness.budgets import BUDGETS
from trainer.robustness.evaluate import Evaluation, Settings, check_fit, evaluate
from trainer.robustness.judges import EngineJudge, Judge
from trainer.robustness.ladder import OnProgress
from trainer.robustness.markdown import render
from trainer.robustness.publish import into_bundle, record_into_bundle
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
    """Where the outcome goes, beside the terminal; None for nowhere.

    ``record`` is empty for the bundle itself.
    """

    json: Path | None
    report: Path | None
    record: str | None
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
        for option, is_wanted in (("--into-bundle", outputs.into_bundle), ("--record", outputs.record == "")):
            if is_wanted and target.bundle is None:
                mend = "; name a file to write" if option == "--record" else ""
                raise UsageError(f"{option}: {request.target} is a checkpoint, expected a bundle{mend}")
        images = read_images(request, target, request.images or budget.images)
        if request.against is None:
            found = evaluate(target, images, settings)
        else:
            with open_target(request.against, backend=request.backend) as other:
                found = evaluate(target, images, settings, against=other)
        _write(found, target, images, settings, outputs)
    return found.report


def hold_gate(request: Request, path: str, on_progress: OnProgress) -> list[gate.Change]:
    """``gate.hold`` on the request's target and data, by the record at ``path``, or in the bundle if empty.

    Raises:
        GateError: a rung lost more than a point.
        EdgePurifyError: whatever is wrong with the record, the target or the data.
    """
    with open_target(request.target, backend=request.backend, precision=request.precision) as target:
        where = Path(path) if path else _own_record(target)
        stored = record.read(where)
        dataset, _ = _open_data(request, target)
        check_fit(target, dataset[slice(0, 1)])
        return gate.hold(stored, target, dataset, where=str(where), on_progress=on_progress)


@contextmanager
def judges_of(target: Target) -> Iterator[dict[str, Judge]]:
    """By precision: the target's own, and in ONNX Runtime, which runs them all, the bundle's others."""
    with ExitStack() as stack:
        judges = {gate.precision_of(target.judge): target.judge}
        if isinstance(target.judge, EngineJudge) and target.judge.backend.name == "onnxruntime":
            bundle = target.bundle
            assert bundle is not None
            engines = (*bundle.manifest.purifiers, *bundle.manifest.classifiers)
            for precision in get_args(Precision):
                if precision not in judges and all(precision in engine.onnx for engine in engines):
                    backend = open_backend(bundle, "onnxruntime", precision)
                    stack.callback(backend.close)
                    judges[precision] = EngineJudge(bundle, backend)
        yield judges


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
    dataset, name = _open_data(request, target)
    if count is not None and count > len(dataset):
        raise UsageError(f"--images {count}: {name} in {request.data} has {len(dataset)} test images")
    images = dataset[slice(0, count)]
    check_fit(target, images)
    return images


def _open_data(request: Request, target: Target) -> tuple[DataSet, str]:
    """The test images of the data set, and its name."""
    name = request.dataset or target.provenance.get("config", {}).get("data", {}).get("name")
    if name is None:
        raise UsageError(f"--dataset: {target.name} doesn't say what it was trained on; name the data set")
    return open_dataset(name, request.data, "test", image_size=target.height), name


def _own_record(target: Target) -> Path:
    bundle = target.bundle
    if bundle is None or bundle.manifest.robustness is None:
        what = "a checkpoint" if bundle is None else "a bundle without a record"
        raise UsageError(f"--gate: {target.name} is {what}; make one by --record, and name it if it's a file")
    return bundle.path(bundle.manifest.robustness)


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
    if outputs.into_bundle and target.bundle is not None:
        into_bundle(found.report, target.bundle)
    if outputs.record is not None:
        _record(found, target, images, settings, outputs.record)


def _record(found: Evaluation, target: Target, images: Images, settings: Settings, path: str) -> None:
    with judges_of(target) as judges:
        made = record.make(
            target.name, found.outcomes, images, judges, ball=settings.ball, seed=settings.seed
        )
    if not path:
        assert target.bundle is not None
        record_into_bundle(made, Bundle.open(target.bundle.folder))
        return
    try:
        Path(path).write_bytes(record.to_bytes(made))
    except OSError as error:
        raise UsageError(f"--record {path}: can't be written: {error.strerror}") from None
