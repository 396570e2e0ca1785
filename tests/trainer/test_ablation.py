"""The ablation: every arm lacks its mechanism, the command compares them, and repeats nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result

from export.torch_to_onnx import engine_bytes
from sdk.errors import UsageError
from tests.trainer.conftest import CONFIGS, full_disk, read_digits
from trainer import config as configs
from trainer.ablation.arms import FULL, Variant, plan
from trainer.ablation.report import difference, render
from trainer.ablation.single import Outcome, Task, Timing, _write
from trainer.ablation.workers import AblationError, carry_out_all
from trainer.checkpoint import CheckpointError
from trainer.cli import main
from trainer.models import Defence, build
from trainer.models.ren import SparseEncodingPurifier

SHIPPED = CONFIGS / "ren-cifar10-ablation.toml"
ARMS = (FULL, "no-sparse-coding", "no-random-encoding", "no-diverse-classifier", "no-purifier")
TINY = """
name = "tiny"
seed = 3
data = {name = "cifar10", validation = 100, crop_padding = 1, flip = false}
recipe = {kind = "adversarial", probe_images = 32}
[model]
family = "ren"
purifier = {count = 2, atoms = 24, atoms_per_encoder = 20, atoms_kept = 22}
classifier = {count = 2, widths = [8, 8, 8], blocks = 1}
[optimizer]
epochs = 1
batch_size = 64
save_every = 2
precision = "32-true"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in CIFAR-10's binary layout: 900 to train on, 180 to test on."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    digits = read_digits()
    pixels = F.interpolate(digits.pixels.float(), size=(32, 32)).byte().flatten(1)
    records = torch.cat([digits.targets.byte()[:, None], pixels], dim=1).numpy()
    for place, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records[180 * place : 180 * (place + 1)].tofile(folder / f"{name}.bin")
    return root


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The command, once, on every arm."""
    out = tmp_path_factory.mktemp("ablation")
    (out / "tiny.toml").write_text(TINY)
    return ablate(out / "tiny.toml", data, out / "runs", "--seeds", 1, "--jobs", 2), out


def ablate(config: Path, data: Path, out: Path, *more: object) -> Result:
    images = [] if "--images" in more else ["--images", 20]
    arguments = ["ablate", config, "--data", data, "--out", out, *images, *more]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def defences(path: Path) -> dict[str, Defence]:
    return {v.arm.name: build(v.config.model, seed=v.seed).requires_grad_(False) for v in plan(path, seeds=1)}


def test_each_arm_lacks_its_mechanism_and_no_other(tiny: Path) -> None:
    """Seen from outside: what the code, the purified image and the logits do."""
    mechanisms = {
        "no-sparse-coding": _code_bends,
        "no-random-encoding": _draws_change_the_purified_image,
        "no-diverse-classifier": _draws_change_the_logits,
    }
    found = defences(tiny)
    assert tuple(found) == ARMS
    for arm, defence in found.items():
        works = {name: works(defence) for name, works in mechanisms.items()}
        if arm == "no-purifier":
            assert not any(works.values())
            images = torch.rand(4, 3, 32, 32)
            assert torch.equal(defence.purify(images, defence.draw(4, torch.Generator())), images)
        else:
            assert works == {name: name != arm for name in mechanisms}, arm


def _code_bends(defence: Defence) -> bool:
    """Whether the code is anything but linear in the image: it shrinks small coefficients to zero."""
    if not isinstance(defence.purifier, SparseEncodingPurifier):
        return False
    generator = torch.Generator().manual_seed(0)
    one, two = torch.rand(2, 4, 3, 32, 32, generator=generator)
    draw = defence.draw(4, generator)
    codes = [
        defence.purifier.encode_and_decode(images, draw.purifier, draw.random_input)[0]
        for images in (one, two, (one + two) / 2)
    ]
    bend = float((codes[2] - (codes[0] + codes[1]) / 2).abs().max())
    assert bend < 1e-5 or bend > 1e-3  # rounding, or shrinkage
    return bend > 1e-3


def _draws_change_the_purified_image(defence: Defence) -> bool:
    images = torch.rand(1, 3, 32, 32).repeat(8, 1, 1, 1)
    spread = float(defence.purify(images, defence.draw(8, torch.Generator())).std(0).max())
    assert spread == 0 or spread > 1e-3
    return spread > 0


def _draws_change_the_logits(defence: Defence) -> bool:
    images = torch.rand(1, 3, 32, 32).repeat(8, 1, 1, 1)
    spread = float(defence.eval().classify(images, defence.draw(8, torch.Generator())).std(0).max())
    assert spread < 1e-5 or spread > 1e-3
    return spread > 1e-3


def test_arms_are_trained_alike(tiny: Path) -> None:
    """What is not the mechanism is the same: data, recipe, schedule, seed, and the weights of the loss."""
    variants = {variant.arm.name: variant.config for variant in plan(tiny, seeds=1)}
    full = variants[FULL]
    for config in variants.values():
        assert (config.data, config.recipe, config.optimizer, config.seed) == (
            full.data,
            full.recipe,
            full.optimizer,
            full.seed,
        )
        diversity = full.loss.diversity if config.model.classifier.count > 1 else 0.0  # of one alone: nothing
        assert config.loss == msgspec.structs.replace(full.loss, diversity=diversity)


@pytest.mark.parametrize("name", ARMS[:-1])
def test_each_arm_s_purifier_exports_as_it_is(name: str, tiny: Path) -> None:
    defence = defences(tiny)[name].eval()
    draw = defence.draw(1, torch.Generator().manual_seed(0))
    inputs = {"image": torch.rand(1, 3, 32, 32), "atom_mask": draw.random_input}
    module = defence.single_purifier(0)
    exported = engine_bytes(module, inputs, output="purified", name="purifier-00")
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(found), module(*inputs.values()), rtol=0, atol=1e-5)


def test_every_arm_is_the_shipped_config_by_the_overrides_that_it_names() -> None:
    variants = plan(SHIPPED, seeds=2)
    assert [(v.arm.name, v.seed) for v in variants] == [(arm, seed) for seed in (0, 1) for arm in ARMS]
    for variant in variants:
        assert variant.config == configs.load(SHIPPED, (*variant.arm.overrides, f"seed={variant.seed}"))
    assert all(v.config.optimizer == variants[0].config.optimizer for v in variants)


def test_the_report_holds_every_arm_and_run(done: tuple[Result, Path]) -> None:
    result, out = done
    assert result.exit_code == 0, result.output
    text = (out / "runs" / "ablation.md").read_text()
    for arm in ARMS:
        assert text.count(f"| {arm} |") == 2, text
        assert f"{arm}-seed-3: finished, clean accuracy" in result.output
    assert "edge-train ablate tiny.toml --data DATA --out RUNS --seeds 1 --images 20" in text
    assert "about 0 left" in result.output
    assert str(out) not in text


def test_a_run_that_was_killed_is_resumed_and_the_others_left_alone(
    done: tuple[Result, Path], data: Path
) -> None:
    """Killed as if between its training and the end of its evaluation."""
    _, out = done
    report = (out / "runs" / "ablation.md").read_text()
    outcome = out / "runs" / "no-purifier-seed-3" / "outcome.json"
    before = msgspec.json.decode(outcome.read_bytes(), type=Outcome)
    outcome.unlink()
    again = ablate(out / "tiny.toml", data, out / "runs", "--seeds", 1)
    assert again.exit_code == 0, again.output
    assert [line.partition(" ")[2] for line in again.output.splitlines()[:3]] == [
        "of 5 runs are finished already",
        "resumed",
        "trained; attacking it",
    ]
    assert msgspec.json.decode(outcome.read_bytes(), type=Outcome) == before
    assert (out / "runs" / "ablation.md").read_text() == report


def test_finished_runs_are_not_repeated(done: tuple[Result, Path], data: Path) -> None:
    _, out = done
    before = (out / "runs" / "ablation.md").read_text()
    checkpoints = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    again = ablate(out / "tiny.toml", data, out / "runs", "--seeds", 1, "--report", out / "docs" / "again.md")
    assert again.exit_code == 0, again.output
    assert again.output.splitlines()[0] == "5 of 5 runs are finished already"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == checkpoints
    assert (out / "docs" / "again.md").read_text() == before


def test_a_run_of_another_config_is_not_taken_for_this_one(done: tuple[Result, Path], data: Path) -> None:
    _, out = done
    other = out / "other.toml"
    other.write_text(TINY.replace("batch_size = 64", "batch_size = 32"))
    assert_one_line(
        ablate(other, data, out / "runs", "--seeds", 1), "full-seed-3 holds a run of another config"
    )


def test_a_killed_command_leaves_a_checkpoint_and_no_process(tiny: Path, data: Path, tmp_path: Path) -> None:
    """The command is killed outright: its worker notices, and leaves a checkpoint from amid the run."""
    tiny.write_text(TINY.replace("epochs = 1", "epochs = 40"))
    program = [
        sys.executable,
        "-m",
        "trainer.cli",
        "ablate",
        tiny,
        "--data",
        data,
        "--out",
        tmp_path / "runs",
    ]
    with subprocess.Popen(
        [str(word) for word in (*program, "--images", 20)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/40" in line:
                break
        process.send_signal(signal.SIGKILL)
        rest = process.stderr.read()  # ends when the worker, which holds the same pipe, has ended too
    last = tmp_path / "runs" / "full-seed-3" / "last.pt"
    assert "epoch 40/40" not in rest
    step = torch.load(last, weights_only=True)["position"]["step"]
    assert 12 <= step < 12 * 40  # an epoch has 12 steps


def test_a_killed_worker_is_told(tiny: Path, data: Path, tmp_path: Path) -> None:
    variant = plan(tiny, seeds=1)[0]
    task = Task(variant, tmp_path / variant.name, data, images=20, threads=1)

    def kill(line: str) -> None:
        assert line == "full-seed-3: started"
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(
        AblationError, match="full-seed-3: its process ended with exit code -9; the same command"
    ):
        carry_out_all([task], jobs=1, tell=kill)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "adversarial", probe_images = 32', 'kind = "clean"', "recipe.kind: expected 'adversarial'"),
        ("count = 2, atoms", "threshold = 0, count = 2, atoms", "model.purifier.threshold: expected > 0"),
        ("count = 2, widths", "count = 1, widths", "model.classifier.count: expected > 1"),
        (
            "count = 2, atoms = 24, atoms_per_encoder = 20, atoms_kept = 22",
            "count = 1, atoms = 24, atoms_per_encoder = 20, atoms_kept = 24",
            "model.purifier.count, atoms_kept",
        ),
    ],
)
def test_a_config_with_nothing_to_ablate_is_refused(
    old: str, new: str, words: str, tiny: Path, data: Path, tmp_path: Path
) -> None:
    assert old in TINY
    tiny.write_text(TINY.replace(old, new))
    assert_one_line(ablate(tiny, data, tmp_path / "runs"), words)


def test_another_family_names_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.family: expected 'ren'.*got 'none'"):
        plan(CONFIGS / "plain-cifar10-edge-at.toml", seeds=1)


def test_a_user_s_mistakes_are_one_line(tiny: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert_one_line(ablate(tmp_path / "absent.toml", data, out), "absent.toml")
    assert_one_line(ablate(tiny, tmp_path, out), "CIFAR-10")
    assert_one_line(ablate(tiny, data, out, "--images", 181), "--images 181: cifar10")
    (tmp_path / "file").write_text("")
    assert_one_line(ablate(tiny, data, tmp_path / "file" / "runs"), "--out")
    assert "0 is not in the range" in ablate(tiny, data, out, "--seeds", 0).output


def test_differences_are_paired_over_images_and_seeds() -> None:
    full = [outcome(FULL, 0, [10, 10, 0, 10]), outcome(FULL, 1, [10, 10, 10, 10])]
    arm = [outcome("arm", 0, [10, 0, 0, 10]), outcome("arm", 1, [10, 5, 10, 10])]
    found = difference(arm, full, "pgd-margin")
    # by image 0, -75, 0, 0; with two seeds, Student's t of one degree of freedom
    half = ((1.959964 * (75**2 / 4 / 4) ** 0.5) ** 2 + (12.706 * 12.5 / 2) ** 2) ** 0.5
    assert found.by_seed == (-25, -12.5)
    assert found.mean == pytest.approx(-18.75)
    assert (found.low, found.high) == pytest.approx((-18.75 - half, -18.75 + half))
    assert not found.is_clear
    assert difference(full, full, "pgd-margin").mean == 0


def test_sentences_follow_from_the_figures(tiny: Path) -> None:
    variants = plan(tiny, seeds=1)
    right = {"no-sparse-coding": 6, "no-random-encoding": 8, "no-purifier": 5}
    outcomes = [outcome(v.arm.name, v.seed, [right.get(v.arm.name, 9)] * 100) for v in variants]
    text = render(variants, outcomes, command="command")
    assert "Without sparse coding, clean accuracy changes by no more than these runs can tell" in text
    assert "accuracy under PGD-20 falls (-30.0 [-30.0, -30.0] points)." in text
    assert (
        "adds to accuracy under PGD-20, in points, the most first: sparse coding 30.0, random encoding 10.0."
        in text
    )
    assert "adds to clean accuracy" not in text

    equal = [outcome(v.arm.name, v.seed, [9] * 100) for v in variants]
    assert "a single mechanism adds" not in render(variants, equal, command="command")


def test_a_rate_that_a_kill_took_is_left_blank(tiny: Path) -> None:
    variants: list[Variant] = plan(tiny, seeds=1)
    outcomes = [outcome(v.arm.name, v.seed, [9, 9]) for v in variants]
    unknown = [msgspec.structs.replace(each, timing=None) for each in outcomes]
    assert "| – | – | 1.0 |" in render(variants, unknown, command="command")
    assert "| 500 | 12.5 | 1.0 |" in render(variants, outcomes, command="command")


def outcome(arm: str, seed: int, pgd: list[int]) -> Outcome:
    """Of 10 draws, ``pgd`` right on each image; all clean images right."""
    right = {"clean": [10] * len(pgd), "pgd-margin": pgd}
    config = configs.load(SHIPPED)
    return Outcome(arm, seed, config, 10, right, {"robust": 0.5}, Timing(500, 12.5), 1.0, 1)


def assert_one_line(result: Result, words: str) -> None:
    lines = result.output.strip().splitlines()
    assert result.exit_code != 0
    assert len(lines) == 1, result.output
    assert lines[0].startswith("edge-train: error: ")
    assert words in lines[0]


def test_a_full_disk_leaves_the_old_figures(tmp_path: Path) -> None:
    path, config = tmp_path / "outcome.json", plan(SHIPPED, seeds=1)[0].config
    old, new = (Outcome("full", 0, config, 1, {"clean": [1] * n}, {}, None, 0.0, 1) for n in (1, 2000))
    _write(path, old)
    before = path.read_bytes()
    told = r"outcome\.json: can't be written: File too large; free some space"
    with full_disk(), pytest.raises(CheckpointError, match=told):
        _write(path, new)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["outcome.json"]
