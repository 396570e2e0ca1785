"""The CI's files: workflows, the scripts that they call, and the images that these run in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from export.tensorrt.devices import TARGETS

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted((ROOT / "ci").glob("*.sh"))
DOCKERFILES = sorted((ROOT / "ci").glob("Dockerfile.*"))

Job = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    tree["on"] = tree.pop(True)  # YAML 1.1 takes the key for a truth value
    return tree


def jobs() -> list[Any]:
    return [
        pytest.param(job, id=f"{path.stem}-{name}")
        for path in WORKFLOWS
        for name, job in load(path)["jobs"].items()
    ]


def runs(job: Job) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_on_every_push_may_only_read_and_is_named_after_its_file(path: Path) -> None:
    tree = load(path)
    assert tree["name"] == path.stem
    assert "push" in tree["on"] or path.stem == "fuzz"  # which takes hours, so it runs every night
    assert "pull_request_target" not in tree["on"]  # it would hand a stranger's code the repository's token
    assert tree["permissions"] == {"contents": "read"}
    assert set(tree) <= {"name", "on", "permissions", "concurrency", "env", "jobs"}


@pytest.mark.parametrize("job", jobs())
def test_a_job_ends_and_fails_closed(job: Job) -> None:
    assert job["timeout-minutes"] <= 120
    assert not [step for step in (job, *job["steps"]) if "continue-on-error" in step]
    for script in runs(job):
        assert not re.search(r"\|\| *(true|:|exit 0)\b|set \+e", script)
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step), step
        assert set(step) <= {"name", "id", "if", "run", "uses", "with", "env"}, step
        if step.get("uses", "").startswith("actions/upload-artifact"):
            assert (step["if"], step["with"]["if-no-files-found"]) == ("always()", "error")


@pytest.mark.parametrize("job", jobs())
def test_an_action_is_pinned_to_a_commit_and_keeps_no_token(job: Job) -> None:
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used[0].startswith("actions/checkout@")
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in used), used
    assert used.count(used[0]) == 1
    assert job["steps"][0]["with"]["persist-credentials"] is False  # the token stays off the disk


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_pinned_action_says_its_version_and_has_one(path: Path) -> None:
    used = re.findall(r"uses: (\S+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$", path.read_text(), re.MULTILINE)
    assert len(used) == path.read_text().count("uses: ")
    assert len(set(used)) == len({action for action, _, _ in used})


def test_no_pull_request_reaches_a_machine_of_ours() -> None:
    """A fork can edit a workflow; the settings that hold then are in docs/engines-in-ci.md."""
    own = [job.values[0] for job in jobs() if "self-hosted" in job.values[0]["runs-on"]]
    assert own
    for job in own:
        events = re.findall(r"event_name == '(\w+)'", job["if"])
        assert sorted(events) == ["push", "workflow_dispatch"]
        assert "github.event_name == 'push' && startsWith(github.ref, 'refs/tags/v')" in job["if"]
        assert job["environment"] == "gpu"


@pytest.mark.parametrize("job", jobs())
def test_scripts_take_values_from_the_environment_and_parse(job: Job) -> None:
    """An expression inside a script would be code; and what a script calls must be here and executable."""
    for script in runs(job):
        assert "${{" not in script
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        for called in re.findall(r"(?:^|\()(\.?ci/[\w./-]+)", script, re.M):
            assert os.access(ROOT / called, os.X_OK), called


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_expression_names_something_that_is_there(path: Path) -> None:
    tree = load(path)
    for job in tree["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        entries = matrix.get("include", ())
        entries = rows() if isinstance(entries, str) else entries
        keys = {*matrix, *(key for entry in entries for key in entry)}
        ids = {step["id"] for step in job["steps"] if "id" in step}
        for expression in re.findall(r"\$\{\{ *(.*?) *\}\}", yaml.safe_dump(job)):
            expression = re.sub(r"^fromJSON\((.*)\)$", r"\1", expression)
            context, _, rest = expression.partition(".")
            known = {
                "github": {"ref", "workspace"},
                "matrix": keys,
                "env": {*tree["env"], *job.get("env", {})},
            }
            if context == "needs":
                needed, outputs, output = rest.split(".")
                assert (needed, outputs) == (job["needs"], "outputs"), expression
                assert output in tree["jobs"][needed]["outputs"], expression
            elif context == "inputs":
                assert rest in tree["on"]["workflow_dispatch"]["inputs"], expression
            elif context == "steps":
                assert rest.split(".")[:2] == [rest.split(".")[0], "outputs"], expression
                assert rest.split(".")[0] in ids, expression
            else:
                assert rest in known[context], expression


def engine_jobs() -> dict[str, Job]:
    found: dict[str, Job] = load(ROOT / ".github" / "workflows" / "engines.yml")["jobs"]
    return found


def rows(*arguments: str) -> list[dict[str, str]]:
    line = [sys.executable, str(ROOT / "ci" / "targets.py"), *arguments]
    found: list[dict[str, str]] = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
    return found


def test_every_target_has_its_runner_and_its_image() -> None:
    everything = rows()
    assert [row["target"] for row in everything] == [name for name in TARGETS if name not in ("rtx", "local")]
    images = {path.suffix[1:] for path in DOCKERFILES}
    assert images == {"cpu", "tensorrt", "l4t", "jetpack7"}
    for row in everything:
        assert row["label"] == row["target"].replace("/", "-")
        jetpack = {"l4t": "jp6", "jetpack7": "jp7", "tensorrt": row["target"]}[row["file"]]
        assert row["target"].split("/")[-1] == jetpack
        assert re.fullmatch(r"nvcr\.io/nvidia/[a-z0-9-]+:(?!latest)[\w.-]+", row["base"])
        assert row["docker"] == ("--runtime nvidia" if "/" in row["target"] else "--gpus all")
        assert rows(row["target"]) == [row]
    assert engine_jobs()["gpu"]["runs-on"] == ["self-hosted", "${{ matrix.label }}"]
    assert engine_jobs()["gpu"]["strategy"]["matrix"] == {
        "include": "${{ fromJSON(needs.targets.outputs.rows) }}"
    }


def test_a_run_on_demand_offers_every_target_or_all() -> None:
    tree = load(ROOT / ".github" / "workflows" / "engines.yml")
    target = tree["on"]["workflow_dispatch"]["inputs"]["target"]
    assert (target["type"], target["default"]) == ("choice", "all")
    assert target["options"] == ["all", *(row["target"] for row in rows())]
    assert engine_jobs()["targets"]["env"] == {"TARGET": "${{ inputs.target }}"}
    refused = subprocess.run(
        [sys.executable, str(ROOT / "ci" / "targets.py"), "xavier"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("targets: expected all or one of jetson-agx-orin/jp6, ")


def test_the_cpu_job_is_unconditional_and_others_need_no_runner_on_a_push() -> None:
    assert "if" not in engine_jobs()["cpu"]
    assert "workflow_dispatch" in engine_jobs()["gpu"]["if"]


def test_engines_are_cached_by_their_fingerprints_and_kept_with_bundle_and_reports() -> None:
    for job in (engine_jobs()["cpu"], engine_jobs()["gpu"]):
        (cache,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/cache")]
        assert cache["with"]["key"].endswith("${{ steps.engines.outputs.key }}")
        assert "restore-keys" not in cache["with"]  # another fingerprint's engines are of no use
        (kept,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/upload")]
        assert kept["with"]["path"].split("\n")[:3] == ["reports", "${{ env.BUNDLE }}", ".engine-cache"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_an_image_is_of_a_fixed_version_and_starts_the_script(path: Path) -> None:
    lines = path.read_text().splitlines()
    (base,) = [line for line in lines if line.startswith("ARG BASE=")]
    assert re.fullmatch(r"ARG BASE=[a-z./0-9-]+:(?!latest)[\w.-]+", base)
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE}"]
    assert lines[-1] == 'ENTRYPOINT ["ci/engines.sh"]'
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line
    assert path.name in "".join(lines[:3])  # how it is built comes first


def test_workflows_satisfy_githubs_schema() -> None:
    line = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    checked = subprocess.run([*line, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Commands named as an installation names them, and a cache of this test's own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("edge-export", "export.cli"), ("edge-purify", "sdk.cli")):
        call = f"import sys; sys.argv[0] = '{name}'; from {module} import main; main()"
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{call}" "$@"\n')
        (programs / name).chmod(0o755)
    paths = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": paths, "XDG_CACHE_HOME": str(tmp_path / "cache")}


def engines_sh(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [str(ROOT / "ci" / "engines.sh"), *map(str, arguments)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx isn't installed")
def test_the_script_builds_every_engine_and_writes_reports(
    exported: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    key = engines_sh(environment, "key", exported, "rtx", "fp32")
    assert re.fullmatch(r"[0-9a-f]{64}\n", key.stdout), key.stderr
    out = tmp_path / "reports"
    built = engines_sh(environment, "build", exported, "rtx", out, "fp32")
    assert built.returncode == 0, built.stderr
    assert built.stdout == f"ci/engines.sh: target rtx: 5 engines, reports in {out}\n"
    assert {path.name for path in out.iterdir()} == {"verify.json", "engines.json", "not-run.txt"}
    engines = json.loads((out / "engines.json").read_text())["engines"]
    assert all(Path(engine["plan"]).is_relative_to(tmp_path / "cache") for engine in engines)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_the_script_fails_where_the_named_runtime_is_missing(
    exported: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    built = engines_sh(environment, "build", exported, "l4", tmp_path / "reports")
    assert built.returncode == 1
    assert built.stdout == ""
    assert built.stderr.startswith(
        "edge-export: error: target l4: this host can't build it: backend tensorrt: tensorrt can't be"
    )
    assert engines_sh(environment, "key", exported, "l4").returncode == 1


def fake_commands(environment: dict[str, str], selftest: str) -> None:
    programs = Path(environment["PATH"].split(":")[0])
    (programs / "edge-export").write_text("#!/bin/sh\necho '{\"engine\":1}'\n")
    (programs / "edge-purify").write_text(f"#!/bin/sh\necho '{selftest}'\n")


@pytest.mark.parametrize(
    ("selftest", "exit_code"),
    [('{"name": "self-test tensorrt fp16"}', 0), ('{"name": "self-test onnxruntime fp32"}', 1)],
)
def test_the_script_fails_where_no_engine_ran_through_tensorrt(
    environment: dict[str, str], tmp_path: Path, selftest: str, exit_code: int
) -> None:
    fake_commands(environment, selftest)
    built = engines_sh(environment, "build", tmp_path, "l4", tmp_path / "reports")
    assert built.returncode == exit_code
    assert ("no engine was run through TensorRT" in built.stderr) == bool(exit_code)


@pytest.mark.parametrize(
    "arguments", [(), ("key",), ("build", "bundle", "rtx"), ("make", "bundle", "rtx", "out")]
)
def test_the_script_shows_its_usage(environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    shown = engines_sh(environment, *arguments)
    assert shown.returncode == 2
    assert "ci/engines.sh build BUNDLE TARGET OUT [PRECISIONS]" in shown.stderr


@pytest.mark.parametrize("on_jetson", [False, True])
def test_a_container_on_a_jetson_may_open_its_gpu_and_knows_the_board(
    tmp_path: Path, on_jetson: bool
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (programs / "docker").chmod(0o755)
    if on_jetson:
        for name, content in (("etc/nv_tegra_release", ORIN), ("proc/device-tree/model", BOARD + "\0")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "ROOT": str(tmp_path),
        "DOCKER": "--runtime nvidia",
    }
    line = [str(ROOT / "ci" / "in-docker.sh"), "key", "bundle", "rtx"]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    asked = done.stdout.splitlines()
    assert asked[:2] == ["run", "--rm"]
    assert asked[-4:] == ["edge-purify-engines", "key", "bundle", "rtx"]
    assert asked[asked.index("--runtime") + 1] == "nvidia"
    assert ("--group-add" in asked) == on_jetson
    if on_jetson:
        assert asked[asked.index("--group-add") + 1] == "video"
        assert (tmp_path / ".engine-cache" / "jetson-model").read_text() == BOARD
        assert f"{tmp_path}/.engine-cache/jetson-model:/etc/jetson-model:ro" in asked


# --- the environment of 'make test-gpu'


BOARD = "NVIDIA Jetson AGX Orin Developer Kit"
ORIN = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"


def gpu_venv(tmp_path: Path, *, release: str = "", smi: str = "") -> tuple[list[str], str]:
    """What ci/gpu-venv.sh asks of Python and pip on a machine with that driver or Jetson Linux."""
    programs, asked = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\necho '{smi}'\n[ -n '{smi}' ]\n")
    (programs / "python3").write_text(
        '#!/bin/sh\necho "$@" >>"$ASKED"\n'
        'if [ "$2" = venv ]; then for last; do :; done; mkdir -p "$last/bin"\n'
        'cp "$0" "$last/bin/python"; fi\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    if release:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "nv_tegra_release").write_text(release)
    line = [str(ROOT / "ci" / "gpu-venv.sh"), str(tmp_path / "venv")]
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "ROOT": str(tmp_path), "ASKED": str(asked)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    return asked.read_text().splitlines() if asked.exists() else [], done.stderr


SMI = "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06      CUDA Version: {}     |"


@pytest.mark.parametrize(
    ("machine", "options", "wanted"),
    [
        ({"smi": SMI.format("12.8")}, "", ".[tensorrt-cu12]"),
        ({"smi": SMI.format("13.0")}, "", ".[tensorrt-cu13,rtx]"),
        ({"release": ORIN}, " --system-site-packages", ".[jetson]"),
        ({"release": ORIN.replace("R36", "R38")}, " --system-site-packages", ". cuda-bindings>=13"),
    ],
    ids=["CUDA 12", "CUDA 13", "JetPack 6", "JetPack 7"],
)
def test_the_gpus_environment_has_what_fits_the_machine(
    tmp_path: Path, machine: dict[str, str], options: str, wanted: str
) -> None:
    asked, said = gpu_venv(tmp_path, **machine)
    assert said == ""
    assert asked[0] == f"-m venv{options} {tmp_path / 'venv'}"
    assert asked[1].endswith(f"--editable {wanted} pytest onnx")
    assert asked[2].startswith("-c import tensorrt, cv2, numpy")


@pytest.mark.parametrize(
    ("machine", "got"),
    [
        (
            {},
            "expected an NVIDIA driver that serves CUDA 12 or later (by nvidia-smi), got: none",
        ),
        (
            {"smi": SMI.format("11.4")},
            "expected an NVIDIA driver that serves CUDA 12 or later",
        ),
        ({"release": ORIN.replace("R36", "R35")}, "expected JetPack 6 or 7"),
    ],
    ids=["no driver", "old driver", "JetPack 5"],
)
def test_the_gpus_environment_is_refused_where_nothing_fits(
    tmp_path: Path, machine: dict[str, str], got: str
) -> None:
    asked, said = gpu_venv(tmp_path, **machine)
    assert asked == []
    assert said.startswith(f"ci/gpu-venv.sh: {got}")
    assert said.count("\n") == 1
