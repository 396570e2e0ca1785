"""The loop: it learns, two processes equal one, and what can't be trained is told before it is tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdk.errors import UsageError
from tests.trainer.conftest import Prepare, full_disk, read_digits, small
from tests.trainer.helpers import weights
from trainer import checkpoint, objectives
from trainer.config import Config
from trainer.data import Images
from trainer.loop.batches import batches
from trainer.loop.fabric import open_fabric
from trainer.loop.fit import fit
from trainer.loop.progress import Progress
from trainer.loop.run import Run
from trainer.models import build


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("ren-cifar10-edge-clean", 0.8),
        ("ren-cifar10-edge-at", 0.8),
        ("plain-cifar10-edge-at", 0.8),
        ("wrn-28-10-cifar10", 0.8),
        ("maep-cifar10-edge", 0.8),
        ("maep-cifar10-edge-adapters", 0.97),  # they begin with a purifier that has learnt
        ("maep-cifar10-edge-atop", 0.95),
    ],
)
def test_the_loss_falls_and_the_checkpoint_classifies(
    name: str, left: float, prepare: Prepare, digits: Images, tmp_path: Path
) -> None:
    losses: list[float] = []
    overrides, training, validation = prepare(name)
    config = small(name, "optimizer.epochs=5", "recipe.eps=0.02", *overrides)

    def report(progress: Progress) -> None:
        if progress.validation:
            losses.append(next(iter(progress.terms.values())))

    fit(config, training, validation, tmp_path, report=report)
    assert losses[-1] < left * losses[0]
    loaded = checkpoint.load_defence(tmp_path / "last.pt")
    draw = loaded.defence.draw(597, torch.Generator().manual_seed(0))
    guesses = loaded.defence(digits.pixels[1200:].float() / 255, draw).argmax(1)
    assert (guesses == digits.targets[1200:]).float().mean() > 0.6
    assert all(tensor.isfinite().all() for tensor in loaded.defence.state_dict().values())
    assert loaded.labels == digits.labels
    assert loaded.provenance["epochs"] == 5


def test_a_classifier_alone_trains_on_images_as_they_are(digits: Images) -> None:
    """Whatever the clean recipe says of codes: the loss is the cross-entropy, and nothing is purified."""
    config = small("wrn-28-10-cifar10")
    defence = build(config.model, seed=0)
    images, generator = digits.pixels[:16].float() / 255, torch.Generator().manual_seed(0)
    draw, noise = defence.draw(16, generator), torch.rand(images.shape, generator=generator)
    loss, terms = objectives.build(defence, config)(
        images, digits.targets[:16], draw, noise, step=0, share=0.0
    )
    expected = torch.nn.functional.cross_entropy(defence.classify(images, draw), digits.targets[:16])
    torch.testing.assert_close(loss, expected)
    assert set(terms) == {"cross_entropy", "accuracy"}


def test_without_a_code_adversary_the_terms_are_numbers(digits: Images, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    config = small("ren-cifar10-edge-clean", "optimizer.epochs=1", "recipe.attacked_share=0")
    fit(config, digits[:192], digits[192:224], tmp_path, report=lambda progress: seen.append(progress.terms))
    assert 0 < seen[-1]["reconstruction"] < 1
    assert seen[-1]["code_stability"] == 0


@pytest.mark.parametrize(("warmup", "n_images"), [(0.2, 320), (1.0, 64), (0.5, 128), (0.0, 128)])
def test_a_rise_of_one_step_or_none_begins_at_the_peak(
    warmup: float, n_images: int, digits: Images, tmp_path: Path
) -> None:
    """The first three rise for one step, by which torch's schedule would divide by zero."""
    config = small("ren-cifar10-edge-clean", "optimizer.epochs=1", f"optimizer.warmup={warmup}")
    run = Run(config, open_fabric("32-true"), digits[:n_images], tmp_path)
    rates = []
    for _ in range(run.steps):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.optimizer.step()
        run.schedule.step()
    if len(rates) > 1:
        assert rates[0] > 0.1
    assert rates == sorted(rates, reverse=True)


def test_sgd_without_momentum_trains(digits: Images, tmp_path: Path) -> None:
    config = small("ren-cifar10-edge-clean", "optimizer.epochs=1", "optimizer.momentum=0")
    best = fit(config, digits[:64], digits[64:96], tmp_path)
    assert checkpoint.load(best)["position"]["step"] > 0


def test_micro_batches_accumulate_to_the_same_update(digits: Images, tmp_path: Path) -> None:
    """With norms that take no batch statistics."""
    ends = []
    for parts in (1, 2):
        config = _three_steps(f"optimizer.micro_batches={parts}")
        with _frozen_norms():
            fit(config, digits[:192], digits[192:200], tmp_path / str(parts))
        ends.append(weights(tmp_path / str(parts) / "last.pt"))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=0, atol=1e-5, msg=key)


def test_two_processes_equal_one(digits: Images, tmp_path: Path) -> None:
    """Three steps; what batch norms do under data parallelism is in the README."""
    with _frozen_norms():
        fit(_three_steps(), digits[:192], digits[192:200], tmp_path / "one")
    program = (
        "from pathlib import Path; from tests.trainer.loop import test_fit; "
        f"test_fit.run_as_worker(Path({str(tmp_path / 'two')!r}))"
    )
    script = tmp_path / "worker.py"
    script.write_text(program)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = weights(tmp_path / "one" / "last.pt"), weights(tmp_path / "two" / "last.pt")
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=0, atol=1e-5, msg=key)


def run_as_worker(out: Path) -> None:
    """What each of the two processes runs."""
    digits = read_digits()
    with _frozen_norms():
        fit(_three_steps(), digits[:192], digits[192:200], out)


def test_a_folder_with_a_run_is_not_overwritten(digits: Images, tmp_path: Path) -> None:
    config = small("ren-cifar10-edge-clean", "optimizer.epochs=1")
    fit(config, digits[:64], digits[64:96], tmp_path)
    with pytest.raises(UsageError, match="--resume"):
        fit(config, digits[:64], digits[64:96], tmp_path)
    with pytest.raises(UsageError, match="another config"):
        fit(small("ren-cifar10-edge-clean", "seed=1"), digits[:64], digits[64:96], tmp_path, resume=True)


def test_a_config_that_does_not_fit_the_data_is_named(digits: Images, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.n_classes: expected 10"):
        fit(small("ren-cifar10-edge-clean", "model.n_classes=7"), digits[:64], digits[64:96], tmp_path)
    with pytest.raises(UsageError, match=r"optimizer\.batch_size: expected at most 32"):
        fit(small("ren-cifar10-edge-clean"), digits[:32], digits[64:96], tmp_path)
    for parts in (3, 65):  # unequal parts would have an equal say
        config = small("ren-cifar10-edge-clean", f"optimizer.micro_batches={parts}")
        told = rf"optimizer\.batch_size: expected a multiple of {parts}, the processes times .*, got 64"
        with pytest.raises(UsageError, match=told):
            fit(config, digits[:64], digits[64:96], tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "absent.pt")
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(checkpoint.CheckpointError, match="not readable"):
        checkpoint.load(tmp_path / "noise.pt")
    torch.save({"weights": torch.ones(2)}, tmp_path / "foreign.pt")
    with pytest.raises(checkpoint.CheckpointError, match="format 1"):
        checkpoint.load(tmp_path / "foreign.pt")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"weights": torch.ones(2)})
    told = r"checkpoint .*last\.pt: can't be written: File too large; free some space and --resume"
    with full_disk(), pytest.raises(checkpoint.CheckpointError, match=told) as caught:
        checkpoint.save(path, {"weights": torch.ones(10_000)})
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load(path)["weights"].tolist() == [1, 1]
    with pytest.raises(checkpoint.CheckpointError, match="can't be written: No such file or directory"):
        checkpoint.save(tmp_path / "absent" / "last.pt", {})


def _three_steps(*overrides: str) -> Config:
    """Of the shipped loss, each with diversity."""
    parts = ("recipe.weight_perturbation=0",)  # each process perturbs by its own images
    terms = ("loss.diversity_every=1", "loss.code_stability=0.05")
    return small("ren-cifar10-edge-at", "optimizer.epochs=1", *parts, *terms, *overrides)


class _frozen_norms:
    """Batch norms that keep their running statistics, also in training."""

    def __enter__(self) -> None:
        self.train = torch.nn.BatchNorm2d.train
        torch.nn.BatchNorm2d.train = lambda norm, mode=True: self.train(norm, False)  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        torch.nn.BatchNorm2d.train = self.train  # type: ignore[method-assign]


def test_epochs_may_be_cut_short_and_then_take_other_images(digits: Images, tmp_path: Path) -> None:
    config = small("ren-cifar10-edge-clean", "optimizer.epochs=3", "optimizer.epoch_steps=2")
    run = Run(config, open_fabric("32-true"), digits[:640], tmp_path)
    assert (run.steps_per_epoch, run.steps) == (2, 6)
    labels = [
        torch.cat([batch.labels for batch in batches(digits[:640], config, e, 0, None)]) for e in (0, 1)
    ]
    assert labels[0].shape == labels[1].shape == (128,)
    assert not torch.equal(*labels)
    best = fit(config, digits[:640], digits[1200:1264], tmp_path / "run")
    assert checkpoint.load(best)["provenance"]["epochs"] <= 3
    assert checkpoint.load(tmp_path / "run/last.pt")["position"]["step"] == 6
    larger = small("ren-cifar10-edge-clean", "optimizer.epoch_steps=99")
    assert Run(larger, open_fabric("32-true"), digits[:640], tmp_path).steps_per_epoch == 10
