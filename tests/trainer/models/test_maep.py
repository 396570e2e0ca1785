"""The masked autoencoder: patches, masking, size and export; and what every family gives as random input."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from export.inputs.draws import engine_inputs, random_inputs
from export.torch_to_onnx import engine_bytes
from trainer import config, models
from trainer.models import Defence
from trainer.models.maep import patchify, place, take, unpatchify
from trainer.models.tiles import Tiles
from trainer.objectives.masked import MaskedObjective

TINY = {
    "family": "maep",
    "image_size": 16,
    "purifier": {"patch": 4, "width": 32, "encoder_blocks": 2, "decoder_blocks": 1, "heads": 2},
    "classifier": {"count": 1, "widths": [8, 16, 16], "blocks": 1},
}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tiny_defence(**purifier: int) -> Defence:
    model = {**TINY, "purifier": {**TINY["purifier"], **purifier}}
    return models.build(msgspec.convert(model, config.Model), seed=1)


def shake(module: torch.nn.Module, seed: int = 0) -> None:
    """Move every parameter off its first value, so that no zero hides a wrong path."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_patches_are_put_together_as_they_were_cut(generator: torch.Generator) -> None:
    images = torch.rand(2, 3, 8, 8, generator=generator)
    patches = patchify(images, 4)
    assert patches.shape == (2, 4, 48)
    assert torch.equal(patches[1, 2].view(3, 4, 4), images[1, :, 4:8, 0:4])  # row by row: 2 is the lower left
    assert torch.equal(unpatchify(patches, 4), images)


@pytest.mark.parametrize("kept", [1, 5, 16])
def test_kept_tokens_return_to_their_own_places(kept: int, generator: torch.Generator) -> None:
    tokens, rest = torch.rand(2, 3, 16, 8, generator=generator)
    keep = tiny_defence(patches_kept=kept).draw(3, generator).random_input
    whole = place(take(tokens, keep), keep, rest)
    for row, image in enumerate(keep.tolist()):
        for patch in range(16):
            expected = tokens if patch in image else rest
            assert torch.equal(whole[row, patch], expected[row, patch])


def test_the_encoder_sees_nothing_of_masked_patches(generator: torch.Generator) -> None:
    defence = tiny_defence(patches_kept=10)
    shake(defence.purifier)
    draw = defence.draw(1, generator)
    masked = sorted(set(range(16)) - set(draw.random_input[0].tolist()))
    images = torch.rand(1, 3, 16, 16, generator=generator)
    others = patchify(images, 4)
    others[:, masked] = torch.rand(1, len(masked), 48, generator=generator)
    assert torch.equal(defence.purify(images, draw), defence.purify(unpatchify(others, 4), draw))
    seen = patchify(images, 4)
    seen[:, draw.random_input[0, 0]] = 1 - seen[:, draw.random_input[0, 0]]
    assert not torch.allclose(
        defence.purify(images, draw), defence.purify(unpatchify(seen, 4), draw), atol=1e-3
    )


def test_untrained_kept_patches_come_back_and_masked_ones_are_grey(generator: torch.Generator) -> None:
    defence = tiny_defence(patches_kept=10)
    images, draw = torch.rand(4, 3, 16, 16, generator=generator), defence.draw(4, generator)
    expected = place(
        take(patchify(images, 4), draw.random_input), draw.random_input, torch.full((4, 16, 48), 0.5)
    )
    torch.testing.assert_close(defence.purify(images, draw), unpatchify(expected, 4))


def test_a_draw_is_a_uniform_increasing_subset(generator: torch.Generator) -> None:
    keep = tiny_defence(patches_kept=10).draw(4000, generator).random_input
    assert keep.dtype == torch.int64
    assert keep.shape == (4000, 10)
    assert (keep.diff(dim=1) > 0).all()
    frequency = torch.bincount(keep.flatten(), minlength=16) / 4000
    assert (frequency - 10 / 16).abs().max() < 0.035  # over 4 standard deviations


def test_by_default_all_patches_are_kept(generator: torch.Generator) -> None:
    assert torch.equal(tiny_defence().draw(2, generator).random_input, torch.arange(16).expand(2, -1))


def test_size_is_as_stated() -> None:
    purifier = models.build(msgspec.convert({"family": "maep"}, config.Model)).purifier
    assert purifier.n_patches == 64
    assert sum(parameter.numel() for parameter in purifier.parameters()) == 1_202_736
    with FlopCounterMode(display=False) as counter:
        purifier(torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64), torch.arange(64)[None])
    assert counter.get_total_flops() == 2 * 82_575_360


@pytest.mark.parametrize(("patches_kept", "adapter_rank"), [(16, 0), (11, 3)])
def test_the_exported_graph_equals_torch(
    patches_kept: int, adapter_rank: int, generator: torch.Generator
) -> None:
    defence = tiny_defence(patches_kept=patches_kept, adapter_rank=adapter_rank).eval()
    shake(defence.purifier)
    image, draw = torch.rand(1, 3, 16, 16, generator=generator), defence.draw(6, generator)
    example = {"image": image} | {
        name: torch.from_numpy(value[:1]) for name, value in engine_inputs(draw).items()
    }
    graph = engine_bytes(defence.single_purifier(0), example, output="purified", name="purifier-00")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (declared,) = random_inputs(defence)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("image", [1, 3, 16, 16], "tensor(float)"),
        (declared.name, list(declared.shape), "tensor(int64)"),
    ]
    answers = []
    for n in range(6):
        keep = engine_inputs(draw[n : n + 1])
        (got,) = session.run(None, {"image": image.numpy(), **keep})
        expected = defence.purify(image, draw[n : n + 1]).detach().numpy()
        np.testing.assert_allclose(got, expected, atol=1e-5)
        answers.append(got)
    differs = not np.allclose(answers[0], answers[1], atol=1e-3)
    assert differs == (patches_kept < 16)


def test_each_family_states_its_random_input() -> None:
    ren = models.build(msgspec.convert({"family": "ren"}, config.Model))
    none = models.build(msgspec.convert({"family": "none"}, config.Model))
    (mask,), (keep,) = random_inputs(ren), random_inputs(tiny_defence(patches_kept=12))
    assert (mask.name, mask.encoding, mask.dtype, mask.size, mask.take) == (
        "atom_mask",
        "mask",
        "float32",
        96,
        86,
    )
    assert (keep.name, keep.encoding, keep.dtype, keep.size, keep.take) == (
        "keep",
        "indices",
        "int64",
        16,
        12,
    )
    assert random_inputs(none) == ()
    assert engine_inputs(none.draw(2, torch.Generator())) == {}


def test_without_a_purifier_the_image_reaches_the_classifier(generator: torch.Generator) -> None:
    defence = models.build(msgspec.convert({"family": "none"}, config.Model)).eval()
    images, draw = torch.rand(3, 3, 32, 32, generator=generator), defence.draw(3, generator)
    assert torch.equal(defence.purify(images, draw), images)
    assert torch.equal(defence(images, draw), defence.classify(images, draw))
    assert torch.equal(defence.single_purifier(0)(images), images)


def test_sizes_that_do_not_fit_are_refused() -> None:
    wrong = {
        "width: expected a multiple of 4 and of heads = 3, got 20": {"purifier": {"width": 20, "heads": 3}},
        "width: expected a multiple of 4 and of heads = 3, got 18": {"purifier": {"width": 18, "heads": 3}},
        "image_size: expected a multiple of 5, the patch": {"purifier": {"patch": 5}},
        "purifier.tile: expected a side, since images of 32 x 64 are not square": {"image_size": [32, 64]},
        "patches_kept: expected at most 64": {"purifier": {"patches_kept": 65}},
    }
    for message, change in wrong.items():
        with pytest.raises(msgspec.ValidationError, match=message):
            msgspec.convert({"family": "maep", **change}, config.Model)


def test_a_stored_ren_model_still_decodes() -> None:
    stored = {
        "family": "ren",
        "n_classes": 10,
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "purifier": {"count": 2, "atoms": 48, "atoms_per_encoder": 40, "atoms_kept": 44, "patch": 4,
                     "iterations": 2, "threshold": 0.1},
        "classifier": {"count": 1, "widths": [8, 8, 8], "blocks": 1},
    }  # fmt: skip
    defence = models.build(msgspec.convert(stored, config.Model))
    assert (defence.n_purifiers, defence.random_input.take, defence.n_classifiers) == (2, 44, 1)


@pytest.mark.parametrize("overlap", [0, 1, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (17, 40), (5, 9), (33, 31)])
def test_images_come_back_from_their_tiles_as_they_were(
    height: int, width: int, overlap: int, generator: torch.Generator
) -> None:
    images = torch.rand(2, 3, height, width, generator=generator)
    tiles = Tiles(height, width, 16, overlap)
    cut = tiles.cut(images)
    assert cut.shape == (2 * tiles.count, 3, 16, 16)
    assert torch.allclose(tiles.join(cut), images, atol=1e-6)


def test_neighbouring_tiles_are_blended_across_their_overlap() -> None:
    tiles = Tiles(16, 28, 16, 4)
    assert (tiles.rows, tiles.columns) == (1, 2)
    whole = tiles.join(torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]))
    row = whole[0, 0, 7]
    assert row[:12].abs().max() == 0
    assert row[12:16].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert (row[16:] == 1).all()


@pytest.mark.parametrize("overlap", [0, 4])
def test_what_small_images_taught_serves_large_ones(
    overlap: int, generator: torch.Generator, tmp_path: Path
) -> None:
    """The weights fit, each tile is purified as an image of its size, and one engine does it all."""
    small = tiny_defence(patches_kept=12)
    shake(small)
    model = msgspec.convert({**TINY, "image_size": 40, "purifier": {**TINY["purifier"], "patches_kept": 12}
                             | {"tile": 16, "overlap": overlap}}, config.Model)  # fmt: skip
    large = models.build(model, seed=2)
    large.purifier.load_state_dict(small.purifier.state_dict())
    images = torch.rand(2, 3, 40, 40, generator=generator)
    draw = large.draw(2, generator)
    purified = large.purify(images, draw)
    alone = small.purify(images[:, :, :16, :16], draw)
    inner = slice(0, 16 - overlap)
    assert torch.allclose(purified[:, :, inner, inner], alone[:, :, inner, inner], atol=1e-6)
    inputs = {
        "image": images[:1],
        **{name: torch.from_numpy(v[:1]) for name, v in engine_inputs(draw).items()},
    }
    content = engine_bytes(large.single_purifier(0), inputs, output="purified", name="purifier-00")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    assert np.abs(found - purified[:1].detach().numpy()).max() < 1e-5


def test_tiles_can_be_trained_on_too(generator: torch.Generator) -> None:
    recipe = config.MaskedRecipe(attack_steps=1)
    model = msgspec.convert(
        {**TINY, "image_size": 24, "purifier": {**TINY["purifier"], "tile": 8}}, config.Model
    )
    defence = models.build(model, seed=1)
    objective = MaskedObjective(defence, recipe, config.Loss())
    images = torch.rand(4, 3, 24, 24, generator=generator)
    noise = torch.rand(images.shape, generator=generator)
    labels, draw = torch.tensor([0, 1, 2, 3]), defence.draw(4, generator)
    loss, terms = objective(images, labels, draw, noise, step=1, share=0.0)
    loss.backward()
    assert {"purification", "reconstruction"} <= terms.keys()
    assert defence.purifier.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("tile", [None, 8])
def test_the_classifiers_logits_guide_what_is_purified_whole(
    tile: int | None, generator: torch.Generator
) -> None:
    model = msgspec.convert({**TINY, "purifier": {**TINY["purifier"], "tile": tile}}, config.Model)
    defence = models.build(model, seed=1)
    images = torch.rand(4, 3, 16, 16, generator=generator)
    noise = torch.rand(images.shape, generator=generator)
    labels, draw = torch.tensor([0, 1, 2, 3]), defence.draw(4, generator)

    def found(clean_share: float, masked: float) -> dict[str, torch.Tensor]:
        recipe = config.MaskedRecipe(attack_steps=2, clean_share=clean_share, masking=(masked,))
        objective = MaskedObjective(defence, recipe, config.Loss(guidance=2.0))
        defence.zero_grad()
        loss, terms = objective(images, labels, draw, noise, step=0, share=0.0)
        loss.backward()
        return {**terms, "loss": loss}

    attacked, clean = found(0.0, 0.0), found(1.0, 0.0)
    assert attacked["guidance"] > 0
    torch.testing.assert_close(attacked["loss"], attacked["purification"] + 2 * attacked["guidance"])
    assert clean["guidance"] < 1e-6, "an untrained head changes nothing, so clean images keep their logits"
    assert "guidance" not in found(0.0, 0.5), "what is painted in is no image to classify"
    assert all(weight.grad is None for weight in defence.classifier.parameters())


@pytest.mark.parametrize(
    ("purifier", "complaint"),
    [
        ({"tile": 10}, r"purifier\.tile: expected a multiple of 4"),
        ({"tile": 8, "overlap": 5}, "at most 4, half of a tile"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(purifier: dict[str, int], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({**TINY, "purifier": {**TINY["purifier"], **purifier}}, config.Model)
