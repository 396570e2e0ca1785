"""Soft targets: what they hold, what they are bound to, and training on them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from sdk.errors import UsageError
from tests.trainer.conftest import small
from trainer import checkpoint, cli, objectives
from trainer import config as configs
from trainer.config import Config
from trainer.data import DataError, Images, catalogue, split_validation
from trainer.data.soft_targets import SoftTargets, make, open_soft_targets
from trainer.loop.fit import fit
from trainer.models import build


@pytest.fixture(scope="module")
def teacher(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    return fit(small("plain-cifar10-edge-at", "recipe.eps=0.02"), digits[:640], digits[640:704], out)


@pytest.fixture(scope="module")
def file(teacher: Path, digits: Images) -> Path:
    path = teacher.parent / "soft.npz"
    make(checkpoint.load_defence(teacher), teacher, digits[:640], share=0.6).save(path)
    return path


def student(file: Path, *overrides: str) -> Config:
    config = small("ren-cifar10-edge-at", "optimizer.save_every=3", "recipe.eps=0.02", *overrides)
    recipe = msgspec.structs.replace(config.recipe, soft_targets=str(file))
    return msgspec.structs.replace(config, recipe=recipe)


def test_targets_are_the_teachers_mean_probabilities_mixed_with_labels(
    teacher: Path, file: Path, digits: Images
) -> None:
    """As by hand; these digits were not mirrored in training, so the teacher isn't asked of mirrored ones."""
    found = SoftTargets.load(file)
    images, labels = digits[:640].pixels.float() / 255, digits.targets[:640]
    with torch.no_grad():
        teacher_says = (
            checkpoint.load_defence(teacher).defence.classifier.all_logits(images).softmax(-1).mean(0)
        )
    expected = 0.6 * teacher_says + 0.4 * F.one_hot(labels, 10)
    torch.testing.assert_close(found.targets, expected, rtol=0, atol=5e-4)  # float16
    assert (found.share, found.teacher["name"]) == (0.6, "plain-cifar10-edge-at")


def test_a_ren_teacher_is_asked_through_all_of_its_purifiers(digits: Images, tmp_path: Path) -> None:
    """And, if it was trained on mirrored images, of these too; here no atom is masked at random."""
    config = small("ren-cifar10-edge-clean", "data.flip=true", "model.purifier.atoms_kept=48")
    defence = build(config.model, seed=0).eval()
    (tmp_path / "teacher.pt").write_bytes(b"its hash alone is taken")
    loaded = checkpoint.Loaded(defence, configs.to_dict(config), digits.labels, {})
    found = make(loaded, tmp_path / "teacher.pt", digits[:8], share=1.0).targets
    images, answers = digits[:8].pixels.float() / 255, []
    draw = defence.draw(8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for seen in (images, images.flip(-1)):
            for index in range(3):
                draw.purifier.fill_(index)
                answers.append(defence.classifier.all_logits(defence.purify(seen, draw)).softmax(-1).mean(0))
    torch.testing.assert_close(found, torch.stack(answers).mean(0))
    assert (found - answers[0]).abs().max() > 1e-4


def test_they_replace_labels_in_the_cross_entropy(digits: Images) -> None:
    config = small("plain-cifar10-edge-at", "loss.diversity=0")
    defence = build(config.model, seed=0)
    images, generator = digits.pixels[:16].float() / 255, torch.Generator().manual_seed(0)
    draw, noise = defence.draw(16, generator), torch.rand(images.shape, generator=generator)
    soft = torch.rand(16, 10, generator=generator).softmax(-1)
    loss, _ = objectives.build(defence, config)(
        images, digits.targets[:16], draw, noise, step=0, share=0.0, soft_targets=soft
    )
    attacked = images + (2 * noise - 1) * 0  # the ramp begins at eps 0
    torch.testing.assert_close(loss, F.cross_entropy(defence(attacked, draw), soft))


@pytest.mark.parametrize("killed_at", [5, 13])
def test_a_killed_and_resumed_run_equals_an_unbroken_one(
    file: Path, killed_at: int, digits: Images, tmp_path: Path
) -> None:
    from tests.trainer.loop.test_resume import Killed, assert_same_end, kill_at

    config, data = student(file), (digits[:640], digits[640:704])
    fit(config, *data, tmp_path / "unbroken")
    with pytest.raises(Killed):
        fit(config, *data, tmp_path / "broken", report=kill_at(killed_at))
    fit(config, *data, tmp_path / "broken", resume=True)
    assert_same_end(tmp_path / "unbroken", tmp_path / "broken")
    state = checkpoint.load(tmp_path / "broken" / "last.pt")["provenance"]
    assert state["soft_targets"]["share"] == 0.6
    assert state["soft_targets"]["teacher"]["name"] in state["ancestors"]


def test_resuming_with_another_file_of_that_name_is_refused(
    teacher: Path, file: Path, digits: Images, tmp_path: Path
) -> None:
    copy = tmp_path / "soft.npz"
    copy.write_bytes(file.read_bytes())
    config, data = student(copy, "optimizer.epochs=1"), (digits[:640], digits[640:704])
    fit(config, *data, tmp_path / "run")
    make(checkpoint.load_defence(teacher), teacher, digits[:640], share=0.5).save(copy)
    with pytest.raises(UsageError, match=r"recipe\.soft_targets is another file"):
        fit(config, *data, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "other",
    [
        lambda images: images[:639],
        lambda images: images[torch.arange(639, -1, -1)],
        lambda images: Images(images.pixels.clamp(min=1), images.targets, images.labels),
        lambda images: Images(images.pixels, images.targets.flip(0), images.labels),
    ],
    ids=["split", "order", "pixels", "labels"],
)
def test_other_training_images_are_refused(file: Path, other: object, digits: Images) -> None:
    with pytest.raises(DataError, match="belong to other training images") as caught:
        open_soft_targets(file, other(digits[:640]))
    assert "data.validation" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_file_that_is_none_is_told_in_a_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"soft\.npz: .*edge-train soften") as caught:
        SoftTargets.load(path)
    assert "\n" not in str(caught.value)


def test_the_command_makes_them_for_the_checkpoints_own_split(
    teacher: Path, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = checkpoint.load(teacher)
    state["config"]["data"]["validation"] = 1697
    checkpoint.save(tmp_path / "teacher.pt", state)
    digits16 = catalogue.InMemory(lambda folder, split: digits, "", (), {})
    monkeypatch.setitem(catalogue.IN_MEMORY, "cifar10", digits16)
    monkeypatch.setattr(catalogue, "_SMALL_IMAGE_SIZE", 16)
    out = tmp_path / "soft.npz"
    arguments = ["soften", str(tmp_path / "teacher.pt"), "--data", str(tmp_path), "--share", "0.5"]
    done = CliRunner().invoke(cli.main, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "100 targets" in done.output
    training = split_validation(digits, 1697)[0]
    assert open_soft_targets(out, training).targets.shape == (100, 10)
    refused = CliRunner().invoke(cli.main, [*arguments, "--out", str(tmp_path / "no" / "soft.npz")])
    assert refused.exit_code == 1
    assert "can't be written" in refused.output
