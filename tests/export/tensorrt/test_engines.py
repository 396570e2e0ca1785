"""Real engine builds: ``tensorrt_rtx`` builds them on any machine, without a GPU."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from export import cli
from export.tensorrt import engines
from export.tensorrt.build import BuildError, Options, Profile
from export.tensorrt.devices import BuildHost
from export.tensorrt.engines import Outcome, build_engines
from export.tensorrt.worker import Job, build_apart
from sdk.backends.plan_store import BuiltEngine, Host, Sidecar, bundle_folder, cache_folder, find_engine
from sdk.bundle import Bundle, Precision, sha256_of
from sdk.errors import BackendError, BundleError, UsageError
from sdk.files import PREFIX
from tests.export.rejected import rejected_graph
from tests.export.spoil import edit_manifest, rehash

trt = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt_rtx isn't installed: pip install 'edge-purify[rtx]'"
)

NAMES = ["purifier-00", "purifier-01", "purifier-02", "classifier-00", "classifier-01"]
SMALL = ["purifier-00", "classifier-00"]
GPU = Host("tensorrt-rtx", trt.__version__, "NVIDIA GeForce RTX 4090", "8.9")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-purify"


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


@pytest.fixture
def small(bundle_copy: Path) -> Bundle:
    """The tiny bundle with one purifier and one classifier, for tests that are not about many."""

    def cut(tree: dict[str, Any]) -> None:
        del tree["purifiers"][1:], tree["classifiers"][1:]

    edit_manifest(bundle_copy, cut)
    return Bundle.open(bundle_copy)


def built(outcome: Outcome) -> list[str]:
    return [engine.engine for engine in outcome.engines if engine.built]


def left_in(folder: Path) -> set[str]:
    """The suffixes of what lies in a folder of engines, but for its lock."""
    return {path.suffix for path in folder.iterdir()} - {""}


def replace_onnx(folder: Path, engine: str, edit: Callable[[onnx.ModelProto], None]) -> Bundle:
    """Change one ONNX file, and make the manifest's hash fit again."""
    path = folder / "onnx" / f"{engine}.onnx"
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    rehash(folder)
    return Bundle.open(folder)


def test_every_engine_is_built_once_and_then_reused(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int, int]] = []
    phases: list[str] = []
    outcome = build_engines(bundle, "rtx", on_step=lambda *step: steps.append(step), on_phase=phases.append)
    assert built(outcome) == NAMES
    assert steps == [(f"{name} fp32", done, 5) for done, name in enumerate(NAMES)]
    assert phases.count("Building engine") == 5
    for engine in outcome.engines:
        plan = Path(engine.plan)
        sidecar = msgspec.json.decode(plan.with_suffix(".json").read_bytes(), type=Sidecar)
        assert plan.is_relative_to(cache)
        assert len(BuiltEngine(plan, sidecar).read()) == engine.size_bytes == sidecar.plan_size_bytes > 10_000
        assert (sidecar.engine, sidecar.target, sidecar.driver) == (engine.engine, "rtx", None)
        assert sidecar.fingerprint.version == trt.__version__
        assert sidecar.fingerprint.options == {"recipe": 1, "workspace_mib": 1024}

    def refuse(*_: Any) -> None:
        raise AssertionError("built what could be reused")

    monkeypatch.setattr(engines, "build_apart", refuse)
    again = build_engines(bundle, "rtx")
    assert built(again) == []
    assert [engine.plan for engine in again.engines] == [engine.plan for engine in outcome.engines]


@pytest.mark.parametrize("family", ["lowered", "maep_lowered"])
def test_every_engine_of_every_precision_is_built(family: str, request: pytest.FixtureRequest) -> None:
    """The exporter's own REN and MAEP graphs, whose casts and Q/DQ pairs say what is FP16 and INT8."""
    whole = Bundle.open(request.getfixturevalue(family))
    arguments = ("engines", whole.folder, "--target", "rtx", "--precision", "fp32,fp16,int8", "--json")
    first, second = run_cli(*arguments), run_cli(*arguments)
    assert first.exit_code == second.exit_code == 0, first.output
    listed = whole.manifest.engines
    expected = [(engine.id, precision) for precision in get_args(Precision) for engine in listed]
    for result, is_built in ((first, True), (second, False)):
        found = json.loads(result.stdout)["engines"]
        assert [(each["engine"], each["precision"]) for each in found] == expected
        assert all(each["built"] is is_built and each["size_bytes"] > 10_000 for each in found)
    for engine in listed:
        assert all(find_engine(whole, engine, precision, GPU).read() for precision in engine.onnx)


def nudge(model: onnx.ModelProto) -> None:
    shifts = model.graph.initializer[0]
    shifts.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shifts) * np.float32(1.001), shifts.name))


def test_changing_one_onnx_file_rebuilds_exactly_that_engine(bundle: Bundle) -> None:
    build_engines(bundle, "rtx")
    changed = replace_onnx(bundle.folder, "purifier-01", nudge)
    assert built(build_engines(changed, "rtx")) == ["purifier-01"]
    assert built(build_engines(bundle, "rtx")) == []  # the old one is still there for who has the old bundle


def test_the_runtime_finds_what_was_built_and_gets_its_bytes(small: Bundle) -> None:
    outcome = build_engines(small, "rtx")
    found = find_engine(small, small.manifest.classifiers[0], "fp32", GPU)
    assert str(found.plan) == outcome.engines[-1].plan
    assert len(found.read()) == outcome.engines[-1].size_bytes


L4 = BuildHost("tensorrt_rtx", trt.__version__, ("8.9",), "NVIDIA L4", "CUDA 12.6")


def test_the_standard_path_ties_engines_to_the_gpu_and_keeps_timings(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's path, with TensorRT-RTX's classes of the same names behind it."""
    monkeypatch.setattr(engines, "build_host", lambda target: L4)
    outcome = build_engines(small, "local")
    assert built(outcome) == SMALL
    assert (outcome.target, outcome.backend) == ("local", "tensorrt")
    purifier = small.manifest.purifiers[0]
    found = find_engine(small, purifier, "fp32", Host("tensorrt", trt.__version__, "NVIDIA L4", "8.9"))
    assert found.sidecar.driver == "CUDA 12.6"
    assert found.sidecar.fingerprint.options["workspace_mib"] == 512
    with pytest.raises(BackendError, match="built for the GPU NVIDIA L4, not this host's NVIDIA L40"):
        find_engine(small, purifier, "fp32", Host("tensorrt", trt.__version__, "NVIDIA L40", "8.9"))
    (timings,) = cache_folder(small).glob("timings.*")
    assert timings.name == f"timings.{trt.__version__}.8.9.cache"
    assert timings.stat().st_size > 0


def test_into_bundle_needs_no_cache_at_all(
    small: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file, not a folder")
    monkeypatch.setattr(engines, "build_host", lambda target: L4)
    assert built(build_engines(small, "local", into_bundle=True)) == SMALL
    small = Bundle.open(small.folder)
    assert built(build_engines(small, "local", into_bundle=True)) == []
    assert Bundle.open(small.folder).digest == small.digest, "nothing new to list"
    (timings,) = bundle_folder(small).glob("timings.*")
    assert timings.stat().st_size > 0


def test_timings_that_cannot_be_kept_cost_no_engine(
    small: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "build_host", lambda target: L4)
    timings = cache_folder(small) / f"timings.{trt.__version__}.8.9.cache"
    (timings / "in the way").mkdir(parents=True)
    assert built(build_engines(small, "local")) == SMALL
    why = "is a folder, expected a file's name"
    what = f"{timings}: the timings of kernels can't be kept: {why}; the next build measures again"
    assert caplog.messages == [f"engine {name} (fp32): TensorRT {trt.__version__}: {what}" for name in SMALL]
    assert left_in(cache_folder(small)) == {".plan", ".json", ".cache"}


def test_an_error_that_nobody_foresaw_is_one_clear_line(small: Bundle, tmp_path: Path) -> None:
    onnx = small.read(small.manifest.purifiers[0].onnx["fp32"])
    job = Job("json", onnx, Options(64), tmp_path / "plan.part", None)  # which is no TensorRT
    with pytest.raises(
        BuildError, match=r"^engine purifier-00: AttributeError: module 'json' has no attribute 'ILogger'$"
    ):
        build_apart(job, "engine purifier-00", lambda phase: None)


def test_into_bundle_leaves_the_cache_alone_and_goes_with_the_bundle(small: Bundle, cache: Path) -> None:
    outcome = build_engines(small, "rtx", into_bundle=True)
    assert not cache.exists()
    moved = small.folder.rename(small.folder.with_name("moved"))
    found = find_engine(Bundle.open(moved), small.manifest.purifiers[0], "fp32", GPU)
    assert found.plan == moved / "engines" / Path(outcome.engines[0].plan).name
    assert left_in(moved / "engines") == {".plan", ".json"}


def test_force_builds_what_could_be_reused(small: Bundle) -> None:
    build_engines(small, "rtx")
    assert built(build_engines(small, "rtx", force=True)) == SMALL


def test_a_damaged_plan_is_built_anew(small: Bundle) -> None:
    plan = Path(build_engines(small, "rtx").engines[0].plan)
    plan.write_bytes(plan.read_bytes()[:-1])
    assert built(build_engines(small, "rtx")) == ["purifier-00"]
    assert find_engine(small, small.manifest.purifiers[0], "fp32", GPU).read()


def test_another_workspace_is_another_engine_and_the_last_chosen_runs(small: Bundle) -> None:
    roomy = build_engines(small, "rtx")
    tight = build_engines(small, "rtx", workspace_mib=16)
    assert built(tight) == SMALL
    for chosen, workspace_mib in ((tight, 16), (roomy, 1024)):
        build_engines(small, "rtx", workspace_mib=workspace_mib)
        found = find_engine(small, small.manifest.purifiers[0], "fp32", GPU)
        assert str(found.plan) == chosen.engines[0].plan


def test_an_int8_engine_that_tensorrt_rejects_shows_its_own_log_lines(small: Bundle) -> None:
    """A quantized constant before something else than DequantizeLinear, as a careless quantizer leaves it."""
    rejected_graph(small.folder / "onnx" / "rejected.onnx")

    def add_int8(tree: dict[str, Any]) -> None:
        classifier = tree["classifiers"][0]["onnx"]
        classifier["int8"] = classifier["fp32"]
        tree["purifiers"][0]["onnx"]["int8"] = {"file": "onnx/rejected.onnx", "sha256": ""}

    edit_manifest(small.folder, add_int8)
    rehash(small.folder)
    result = run_cli("engines", small.folder, "--target", "rtx")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    who = f"engine purifier-00 (int8): TensorRT-RTX {trt.__version__}"
    assert result.stderr.startswith(f"edge-export: error: {who} can't build the engine: ")
    assert "Quantized constant (codes) is only allowed before DQ" in result.stderr
    for engine in (small.manifest.purifiers[0], small.manifest.classifiers[0]):
        assert find_engine(small, engine, "fp32", GPU).read()  # those before it were built, and stay
    assert len(list(cache_folder(small).glob("*.plan"))) == 2
    assert left_in(cache_folder(small)) == {".plan", ".json"}


def test_a_file_that_is_no_onnx_is_one_clear_line(small: Bundle) -> None:
    (small.folder / "onnx" / "purifier-00.onnx").write_bytes(b"not ONNX at all")
    rehash(small.folder)
    with pytest.raises(BundleError, match=r"purifier-00\.onnx is not an ONNX file: ") as caught:
        build_engines(Bundle.open(small.folder), "rtx")
    assert "\n" not in str(caught.value)


def test_what_is_compiled_is_what_the_fingerprint_names(small: Bundle) -> None:
    """An ONNX file that is replaced after the bundle was opened is not compiled under its name."""
    first, second = (engine.onnx["fp32"] for engine in small.manifest.engines)
    swapped = small.path(second).read_bytes()
    small.path(first).write_bytes(swapped)
    with pytest.raises(BundleError, match=r"purifier-00\.onnx is damaged or changed"):
        build_engines(small, "rtx")
    assert not list(cache_folder(small).glob("*.plan"))


def test_a_strangers_engine_in_the_bundle_is_not_listed_as_built(small: Bundle) -> None:
    """It has the right name and fingerprint, and a sidecar with its hash."""
    build_engines(small, "rtx", into_bundle=True)
    bundle = Bundle.open(small.folder)
    plan, sidecar = (next(bundle_folder(bundle).glob(f"purifier-00.*{end}")) for end in (".plan", ".json"))
    tree = json.loads(sidecar.read_text())
    plan.write_bytes(b"code")
    tree |= {"plan_sha256": sha256_of(plan), "plan_size_bytes": 4}
    sidecar.write_text(json.dumps(tree))
    again = build_engines(bundle, "rtx", into_bundle=True)
    assert built(again) == ["purifier-00"], "it is built over"
    assert find_engine(Bundle.open(small.folder), bundle.manifest.purifiers[0], "fp32", GPU).read() != b"code"


def make_dynamic(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def test_a_dynamic_shape_is_built_within_a_profile_and_only_there(small: Bundle) -> None:
    edit_manifest(small.folder, lambda tree: tree.update(purifiers=tree["classifiers"]))
    dynamic = replace_onnx(small.folder, "classifier-00", make_dynamic)
    with pytest.raises(
        BuildError, match=r"every shape of input 'image', \[-1, 3, 16, 16\]; give its range: --profile image="
    ):
        build_engines(dynamic, "rtx")
    profile = Profile.parse("image=1x3x16x16:4x3x16x16:8x3x16x16")
    outcome = build_engines(dynamic, "rtx", profiles=(profile,))
    sidecar = json.loads(Path(outcome.engines[0].plan).with_suffix(".json").read_text())
    assert sidecar["fingerprint"]["options"]["profiles"] == str(profile)


def test_a_profile_of_a_static_input_is_refused(small: Bundle) -> None:
    profile = Profile.parse("image=1x3x16x16:1x3x16x16:2x3x16x16")
    with pytest.raises(
        BuildError, match=r"can't take profile image=1x3.*: the inputs of dynamic shape are: none"
    ):
        build_engines(small, "rtx", profiles=(profile,))


@pytest.mark.parametrize(
    "text", ["image", "image=1x3", "=1:1:1", "image=4:2:8", "image=0:1:2", "image=1:1x1:2", "a=x:y:z"]
)
def test_a_profile_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^profile: expected NAME=MIN:OPT:MAX"):
        Profile.parse(text)


def test_a_build_that_the_kernel_kills_is_one_clear_line_and_leaves_nothing(small: Bundle) -> None:
    def kill(phase: str) -> None:
        for process in active_children():
            process.kill()

    with pytest.raises(
        BuildError, match=r"^engine purifier-00 \(fp32\): .*killed.* memory .*--workspace \(now 1024 MiB\)"
    ):
        build_engines(small, "rtx", on_phase=kill)
    assert left_in(cache_folder(small)) == set()


def test_a_build_that_crashes_names_the_signal(small: Bundle) -> None:
    def crash(phase: str) -> None:
        for process in active_children():
            os.kill(process.pid or 0, signal.SIGSEGV)

    with pytest.raises(BuildError, match="crashed with SIGSEGV"):
        build_engines(small, "rtx", on_phase=crash)


def test_ctrl_c_ends_the_build_too(small: Bundle) -> None:
    builds = []

    def interrupt(phase: str) -> None:
        builds.extend(active_children())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(small, "rtx", on_phase=interrupt)
    assert [process.exitcode for process in builds] == [-signal.SIGKILL]
    assert left_in(cache_folder(small)) == set()


KILL_ITSELF = """
import os, signal, sys
from multiprocessing import active_children
from export.tensorrt.engines import build_engines
from sdk.bundle import Bundle, Precision

def kill(phase):
    if phase == "Building engine" and steps[-1] == 1:
        child = active_children()[0].pid
        os.kill(child, signal.SIGSTOP)  # so that it can't just come to its end
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

steps = []
bundle = Bundle.open(sys.argv[1])
build_engines(bundle, "rtx", on_step=lambda what, done, total: steps.append(done), on_phase=kill)
"""


def test_a_killed_run_leaves_no_half_engine_no_lock_and_no_process(small: Bundle) -> None:
    line = [sys.executable, "-c", KILL_ITSELF, str(small.folder)]
    killed = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert find_engine(small, small.manifest.purifiers[0], "fp32", GPU).read()
    assert built(build_engines(small, "rtx")) == ["classifier-00"]  # and doesn't wait for a lock
    assert left_in(cache_folder(small)) == {".plan", ".json"}
    assert not is_running(int(killed.stdout))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_kill_left_behind_is_cleared(small: Bundle) -> None:
    folder = cache_folder(small)
    folder.mkdir(parents=True)
    (folder / f"{PREFIX}0123456789abcdef.plan").write_bytes(b"half")
    build_engines(small, "rtx")
    assert left_in(folder) == {".plan", ".json"}


def test_a_build_waits_for_the_other_that_holds_the_lock(small: Bundle) -> None:
    build_engines(small, "rtx")
    steps = []
    with (cache_folder(small) / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def release(what: str, done: int, total: int) -> None:
            steps.append(what)
            fcntl.flock(other, fcntl.LOCK_UN)

        build_engines(small, "rtx", on_step=release)
    assert steps == ["waiting for another build", "purifier-00 fp32", "classifier-00 fp32"]


def command(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "export.cli", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_two_builds_of_one_bundle_at_once_build_every_engine_once(small: Bundle) -> None:
    runs = [command("engines", small.folder, "--target", "rtx", "--json") for _ in range(2)]
    outcomes = []
    for run in runs:
        stdout, stderr = run.communicate(timeout=120)
        assert run.returncode == 0, stderr
        outcomes.append([engine["built"] for engine in json.loads(stdout)["engines"]])
    assert sorted(outcomes) == [[False] * 2, [True] * 2]


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(small: Bundle) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    run = command("engines", small.folder, "--target", "rtx", preexec_fn=no_large_files)
    stdout, stderr = run.communicate(timeout=60)
    assert (run.returncode, stdout, stderr.count("\n")) == (1, "", 1)
    assert stderr.startswith("edge-export: error: engine purifier-00 (fp32): TensorRT-RTX ")
    assert "File too large" in stderr
    assert str(cache_folder(small)) in stderr
    assert left_in(cache_folder(small)) == set()


def test_a_cache_that_cannot_be_made_is_one_clear_line(small: Bundle, cache: Path) -> None:
    cache.parent.write_text("a file, not a folder")
    with pytest.raises(BuildError, match=rf"^{cache.parent}: can't be written: File exists"):
        build_engines(small, "rtx")


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_the_command_reports_what_it_built(small: Bundle) -> None:
    first = run_cli("engines", small.folder, "--target", "rtx", "--into-bundle")
    assert first.exit_code == 0, first.output
    assert first.stderr == ""
    lines = first.stdout.splitlines()
    assert lines[0].startswith("purifier-00    fp32     0.3 MB  built in ")
    assert lines[-1] == (
        f"{bundle_folder(small)}: 2 engines for rtx (tensorrt-rtx {trt.__version__}), 2 of them built now"
    )
    second = run_cli("engines", small.folder, "--target", "rtx", "--into-bundle", "--json")
    report = json.loads(second.stdout)
    assert (report["bundle"], report["digest"]) == ("tiny", Bundle.open(small.folder).digest)
    assert [(engine["engine"], engine["built"]) for engine in report["engines"]] == [
        (name, False) for name in SMALL
    ]


def test_the_key_names_these_engines_and_builds_none(small: Bundle, cache: Path) -> None:
    def key(*arguments: object) -> str:
        result = run_cli("engines", small.folder, "--target", "rtx", "--key", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    assert key() == key("--precision", "fp32") != key("--workspace", 16)
    assert len(key()) == 65
    before = key()
    replace_onnx(small.folder, "purifier-00", nudge)
    assert key() != before
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (("--target", "tx2"), 2, "target: expected one of jetson-agx-orin/jp6, "),
        (("--target", "rtx", "--precision", "fp8"), 2, "precision: 'fp8' can't be built for rtx: "),
        (
            ("--target", "rtx", "--precision", "fp32,int8"),
            2,
            "has fp32; add one with 'edge-export precision'",
        ),
        (("--target", "rtx", "--profile", "image"), 2, "profile: expected NAME=MIN:OPT:MAX"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    small: Bundle, cache: Path, arguments: tuple[str, ...], exit_code: int, complaint: str
) -> None:
    result = run_cli("engines", small.folder, *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (exit_code, "", 1)
    assert complaint in result.stderr
    assert not cache.exists()


def test_a_workspace_of_more_than_a_tebibyte_is_refused(small: Bundle, cache: Path) -> None:
    result = run_cli("engines", small.folder, "--target", "rtx", "--workspace", (1 << 20) + 1)
    assert result.exit_code == 2
    assert "'--workspace': 1048577 is not in the range 1<=x<=1048576" in result.stderr
    assert not cache.exists()


def test_engines_are_built_where_torch_and_onnx_are_not_installed(small: Bundle) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; from export.cli import main; main()"
    )
    line = [sys.executable, "-c", program, "engines", str(small.folder), "--target", "rtx"]
    run = subprocess.run(line, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("built in") == 2
