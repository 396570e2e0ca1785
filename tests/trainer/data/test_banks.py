"""Attack banks: what they hold, what they refuse, and that images and attacks stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdk.errors import UsageError
from trainer import config, models
from trainer.data import DataError, DataSet, Images, augment, split_validation
from trainer.data import attack_bank as banks
from trainer.data.attack_bank import Bank
from trainer.models import Defence


@pytest.fixture(scope="module")
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (300, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(4, (300,), generator=generator), tuple("abcd"))


@pytest.fixture(scope="module")
def defence() -> Defence:
    classifier = config.Classifier(count=2, widths=(8, 8, 8), blocks=1)
    made = models.build(config.PlainModel(n_classes=4, image_size=16, classifier=classifier), seed=0)
    for member in made.classifier.members:
        member[-1].weight.data *= 20  # logits of a few units, as after training
    return made


@pytest.fixture(scope="module")
def bank(defence: Defence, images: Images) -> Bank:
    return banks.make(defence, images, eps=4 / 255, steps=3)


def loss_of(defence: Defence, images: Images) -> float:
    with torch.no_grad():
        logits = defence.classifier.all_logits(images.pixels.float() / 255).mean(0)
    return float(torch.nn.functional.cross_entropy(logits, images.targets))


def test_perturbations_raise_the_loss_within_the_bound(defence: Defence, bank: Bank, images: Images) -> None:
    assert bank.perturbations.dtype == torch.int8
    assert bank.perturbations.shape == images.pixels.shape
    assert bank.perturbations.abs().max() == 4
    attacked = bank.attack(images)
    # no value was clipped: what is stored was made inside [0, 1]
    assert torch.equal(attacked.pixels.short() - images.pixels, bank.perturbations.short())
    assert torch.equal(attacked.targets, images.targets)
    random = images.pixels.short() + torch.where(torch.rand(images.pixels.shape) < 0.5, -4, 4)
    noisy = Images(random.clamp(0, 255).to(torch.uint8), images.targets, images.labels)
    assert loss_of(defence, attacked) > loss_of(defence, noisy) + 0.05
    assert loss_of(defence, attacked) > loss_of(defence, images) + 0.05


def test_the_same_seed_makes_the_same_bank(defence: Defence, bank: Bank, images: Images) -> None:
    again = banks.make(defence, images, eps=4 / 255, steps=3)
    other = banks.make(defence, images, eps=4 / 255, steps=3, seed=1)
    assert torch.equal(again.perturbations, bank.perturbations)
    assert not torch.equal(other.perturbations, bank.perturbations)


def test_progress_reaches_the_number_of_images(defence: Defence, images: Images) -> None:
    done: list[int] = []
    banks.make(defence, images, steps=1, on_batch=done.append)
    assert done == [250, 300]


def test_a_bank_is_read_as_it_was_written(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank.npz")
    found = Bank.load(tmp_path / "bank.npz")
    assert torch.equal(found.perturbations, bank.perturbations)
    assert (found.digest, found.eps, found.steps) == (bank.digest, bank.eps, bank.steps)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.npz"]


def test_pairs_split_like_the_data_set_and_move_together(bank: Bank, images: Images) -> None:
    training, validation = banks.split(images, bank, 60)
    clean_training, clean_validation = split_validation(images, 60)
    assert torch.equal(training.pixels[:, :3], clean_training.pixels)
    assert torch.equal(training.targets, clean_training.targets)
    assert torch.equal(validation.targets, clean_validation.targets)
    moved = validation.pixels.short() - clean_validation.pixels
    assert validation.pixels.shape == (60, 3, 16, 16)
    assert 0 < moved.abs().max() <= 4
    shifted = augment(training.pixels, crop_padding=4, flip=True, generator=torch.Generator().manual_seed(0))
    alone = augment(
        clean_training.pixels, crop_padding=4, flip=True, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(shifted[:, :3], alone)
    assert (shifted[:, 3:] - shifted[:, :3]).abs().max() <= 4.001 / 255


def test_a_recipe_takes_the_bank_that_it_names(bank: Bank, images: Images, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank.npz")
    training, validation = banks.split_for(config.MaskedRecipe(bank=str(tmp_path / "bank.npz")), images, 60)
    assert (training.pixels.shape, validation.pixels.shape) == ((240, 6, 16, 16), (60, 3, 16, 16))
    for recipe in (config.MaskedRecipe(), config.AtopRecipe()):
        training, validation = banks.split_for(recipe, images, 60)
        assert torch.equal(validation.pixels, split_validation(images, 60)[1].pixels)
        assert training.pixels.shape == (240, 3, 16, 16)


def test_a_bank_for_more_than_the_memory_holds_is_refused(images: Images, tmp_path: Path) -> None:
    class Elsewhere(DataSet):
        targets, labels = images.targets, images.labels
        __getitem__ = subset = None

        def __len__(self) -> int:
            return len(images)

    with pytest.raises(DataError, match=r"in memory, and these 300 are too many; leave recipe\.bank out"):
        banks.split_for(config.MaskedRecipe(bank="b"), Elsewhere(), 60)


def test_a_bank_for_other_images_is_refused(bank: Bank, images: Images) -> None:
    other = Images(images.pixels.flip(0), images.targets, images.labels)
    with pytest.raises(
        DataError, match="300 perturbations were made for other images than these 300; make a bank"
    ):
        bank.attack(other)


@pytest.mark.parametrize("eps", [0.0, 8.0, -0.1, float("nan")])
def test_a_bound_on_another_scale_is_refused(eps: float, defence: Defence, images: Images) -> None:
    with pytest.raises(
        UsageError, match=r"eps: expected a bound in \(0, 127/255\] for images in \[0, 1\], got"
    ):
        banks.make(defence, images, eps=eps)


def test_files_that_hold_no_bank_are_refused(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    told = "no such file; 'edge-train bank CHECKPOINT --data DIR --out FILE' makes one"
    with pytest.raises(DataError, match=told):
        Bank.load(path)
    bank.save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], whole[:5000] + b"\xff" * 16 + whole[5016:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"bank .*bank.npz: not readable as a bank") as refused:
            Bank.load(path)
        assert "\n" not in str(refused.value)
    np.savez(path, perturbations=np.zeros((2, 3)), digest="", eps=0.1, steps=1)
    with pytest.raises(DataError, match=r"expected int8 \(N, 3, H, W\), got float64 \(2, 3\)"):
        Bank.load(path)
    np.savez(path, something=np.zeros(2))
    with pytest.raises(DataError, match="not readable as a bank"):
        Bank.load(path)


def test_a_folder_that_can_not_be_written_is_told(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bank .*: can't be written: No such file or directory"):
        bank.save(tmp_path / "absent" / "bank.npz")
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent" / "bank.npz", tmp_path / "file" / "bank.npz", tmp_path):
        with pytest.raises(DataError, match=r"bank .*: can't be written: "):
            banks.check_writable(path)
    banks.check_writable(tmp_path / "bank.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
