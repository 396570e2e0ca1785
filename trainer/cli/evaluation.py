"""The work of ``edge-train evaluate``: from options to figures, files and the gate."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from sdk.backends import open_backend
from sdk.bundle import MANIFEST, Bundle, Precision
from sdk.errors import UsageError
from sdk.files import is_stream, require_writable, write_output
from trainer.data import DataSet, Images, open_as_trained
from trainer.robustness.attacks.ball import Ball, Norm
from trainer.robustness.defences.judges import EngineJudge, Judge
from trainer.robustness.defences.targets import Target, open_target
from trainer.robustness.evaluation.budgets import BUDGETS
from trainer.robustness.evaluation.evaluate import Evaluation, Settings, check_fit, evaluate
from trainer.robustness.evaluation.report import Report, to_json
from trainer.robustness.evaluation.steps import OnProgress
from trainer.robustness.results import gate, plots, record
from trainer.robustness.results.markdown import render
from trainer.robustness.results.publish import check_publishable, into_bundle, record_into_bundle
from trainer.team import Team, open_team, share_cpus

REPORT = "report.json"
NOT_WITH_GATE = ("--record", "--report", "--into-bundle", "--against", "--ordinary", "--images", "--draws",
                 "--budget", "--norm", "--eps", "--seed")  # fmt: skip
EPS = {"linf": "8/255", "l2": "128/255"}  # customary on small images


@dataclass(frozen=True)
class Request:
    """The command's options; ``eps`` is the norm's of ``EPS`` where it is None."""

    target: Path
    data: Path
    dataset: str | None
    images: int | None
    draws: int | None
    budget: str
    norm: Norm
    eps: str | None
    seed: int
    against: Path | None
    ordinary: Path | None
    backend: str
    precision: str
    work: Path
    trust_code: bool = False

    def open(self, path: Path, precision: str) -> AbstractContextManager[Target]:
        return open_target(path, backend=self.backend, precision=precision, trust_code=self.trust_code)


@dataclass(frozen=True)
class Outputs:
    """Where the outcome goes, beside the terminal; None for nowhere.

    ``record`` is empty for the bundle itself.
    """

    json: Path | None
    report: Path | None
    record: str | None
    into_bundle: bool

    def check(self, target: Target) -> None:
        """Find out before the work what would fail after it.

        Raises:
            UsageError: something of it can't be written.
        """
        if self.json is not None:
            _try_to_write(self.json, "--json")
        if self.report is not None:
            try:
                self.report.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritable("--report", self.report, error) from None
            _try_to_write(self.report / REPORT, "--report")
        if self.record:
            _try_to_write(Path(self.record), "--record")
        if target.bundle is not None and (self.into_bundle or self.record == ""):
            option = "--into-bundle" if self.into_bundle else "--record"
            _try_to_write(target.bundle.folder / MANIFEST, option)


def run(request: Request, outputs: Outputs, on_progress: OnProgress) -> Report:
    """Measure, and write what is asked for: with ``torchrun`` all processes together, and the first one.

    Raises:
        EdgePurifyError: whatever is wrong with the options, the target or the data.
    """
    share_cpus()
    with open_team() as team:
        return _run(request, outputs, on_progress, team)


def _run(request: Request, outputs: Outputs, on_progress: OnProgress, team: Team) -> Report:
    ball = Ball(request.norm, parse_eps(EPS[request.norm] if request.eps is None else request.eps))
    budget = BUDGETS[request.budget]
    if outputs.into_bundle:
        check_publishable(request.budget, attacks=budget.rungs != ("clean",))
    if request.draws is not None:
        budget = msgspec.structs.replace(budget, draws=request.draws)
    settings = Settings(budget, ball, request.work, request.seed, on_progress, team)
    with request.open(request.target, request.precision) as target:
        if request.draws is not None and request.draws > target.n_draws:
            raise UsageError(f"--draws {request.draws}: {target.name} has {target.n_draws} different draws")
        for option, is_wanted in (("--into-bundle", outputs.into_bundle), ("--record", outputs.record == "")):
            if is_wanted and target.bundle is None:
                hint = "name a file to write" if option == "--record" else None
                raise UsageError(f"{option}: {request.target} is a checkpoint, expected a bundle", hint=hint)
        if team.rank == 0:
            outputs.check(target)
        images = read_images(request, target, request.images or budget.images)
        with ExitStack() as stack:
            others: dict[str, Target] = {}
            for role, path in (("against", request.against), ("ordinary", request.ordinary)):
                if path is not None:
                    precision = _precision_for(path, request.precision)
                    others[role] = stack.enter_context(request.open(path, precision))
            found = evaluate(target, images, settings, **others)
        if team.rank == 0:
            _write(found, target, images, settings, outputs)
    return found.report


def check_gate(given: Collection[str]) -> None:
    """Refuse options ``given`` beside ``--gate`` that it would leave without effect.

    Raises:
        UsageError: there is one; the message names it.
    """
    for option in NOT_WITH_GATE:
        if option in given:
            raise UsageError(
                f"--gate and {option}: expected one of them", hint="a gate holds what is on record"
            )


def hold_gate(
    request: Request, path: str, on_progress: OnProgress, *, json: Path | None = None
) -> list[gate.Change]:
    """``gate.hold`` on the request's target and data, by the record at ``path``, or in the bundle if empty.

    Args:
        json: written whether or not the gate holds; None for nowhere.

    Raises:
        GateError: a rung lost more than a point.
        EdgePurifyError: whatever is wrong with the record, the target or the data.
    """
    with request.open(request.target, request.precision) as target:
        where, content = (Path(path), None) if path else _own_record(target)
        stored = record.read(where, content)
        dataset, _ = _open_data(request, target)
        check_fit(target, dataset[slice(0, 1)])
        if json is not None:
            _try_to_write(json, "--json")

        def keep(changes: list[gate.Change]) -> None:
            if json is not None:
                _write_file(json, gate.to_json(changes), "--json")

        return gate.hold(stored, target, dataset, where=str(where), on_progress=on_progress, on_changes=keep)


@contextmanager
def judges_of(target: Target) -> Iterator[dict[str, Judge]]:
    """By precision: the target's own, and in ONNX Runtime, which runs them all, the bundle's others."""
    with ExitStack() as stack:
        judges = {gate.precision_of(target.judge): target.judge}
        if isinstance(target.judge, EngineJudge) and target.judge.backend.name == "onnxruntime":
            bundle = target.bundle
            assert bundle is not None
            engines = bundle.manifest.engines
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
        raise UsageError(
            f"--dataset: {target.name} doesn't say what it was trained on", hint="name the data set"
        )
    dataset = open_as_trained(
        target.provenance,
        request.data,
        "test",
        image_size=(target.height, target.width),
        labels=target.labels,
        name=request.dataset,
    )
    return dataset, name


def _precision_for(path: Path, wanted: str) -> str:
    """``wanted`` where ``path`` is a bundle that has it; otherwise fp32, which the report then says."""
    if path.name != MANIFEST and not path.is_dir():
        return "fp32"
    bundle = Bundle.open(path.parent if path.name == MANIFEST else path)
    return wanted if wanted in (*bundle.manifest.precisions, "auto") else "fp32"


def _own_record(target: Target) -> tuple[Path, bytes]:
    bundle = target.bundle
    if bundle is None or bundle.manifest.robustness is None:
        what = "a checkpoint" if bundle is None else "a bundle without a record"
        raise UsageError(
            f"--gate: {target.name} is {what}", hint="make one by --record, and name it if it's a file"
        )
    return bundle.path(bundle.manifest.robustness), bundle.read(bundle.manifest.robustness)


def _write(found: Evaluation, target: Target, images: Images, settings: Settings, outputs: Outputs) -> None:
    if outputs.json is not None:
        _write_file(outputs.json, to_json(found.report), "--json")
    if outputs.report is not None:
        _write_file(outputs.report / REPORT, to_json(found.report), "--report")
        _write_file(outputs.report / "report.md", render(found.report).encode(), "--report")
        try:
            plots.draw(found.report, found.outcomes, target.twin, outputs.report)
        except OSError as error:
            raise _unwritable("--report", outputs.report, error) from None
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
    _write_file(Path(path), record.to_bytes(made), "--record")


def _write_file(path: Path, content: bytes, option: str) -> None:
    try:
        write_output(path, content)
    except OSError as error:
        raise _unwritable(option, path, error) from None


def _try_to_write(path: Path, option: str) -> None:
    """Prove that ``path`` can be written, and leave what is there as it is."""
    if is_stream(path):
        return  # the reader of a pipe would take the closing for the end
    try:
        require_writable(path)
    except OSError as error:
        raise _unwritable(option, path, error) from None


def _unwritable(option: str, path: Path, error: OSError) -> UsageError:
    return UsageError(f"{option} {path}: can't be written: {error.strerror}")
