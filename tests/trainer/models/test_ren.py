"""REN's purifier against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Lasso

from trainer.models.ren import SingleSparsePurifier, SparseEncodingPurifier, contrast_ratio, shrink

SIDE = 8


@pytest.fixture
def bank() -> SparseEncodingPurifier:
    generator = torch.Generator().manual_seed(3)
    bank = SparseEncodingPurifier(
        n_purifiers=3, threshold=0.1, iterations=800, image_size=SIDE, generator=generator
    )
    with torch.no_grad():  # away from the tight frame, where ISTA would be all too easy
        bank.dictionary += 0.1 * torch.randn(bank.dictionary.shape, generator=generator)
    bank.power_iteration(300)
    return bank


def synthesis_matrix(bank: SparseEncodingPurifier) -> np.ndarray:
    """D as a matrix, (3 * SIDE^2, A * (SIDE / 2)^2), column by column."""
    side = SIDE // bank.stride
    units = torch.eye(bank.n_atoms * side * side).view(-1, bank.n_atoms, side, side)
    columns = F.conv_transpose2d(units, bank.unit_atoms(), stride=bank.stride, padding=bank.padding)
    return columns.flatten(1).T.detach().double().numpy()


def test_the_unrolled_iteration_converges_to_the_lasso(bank: SparseEncodingPurifier) -> None:
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(1, 3, SIDE, SIDE, generator=generator)
    encoder = torch.tensor([1])
    mask = (torch.rand(1, bank.n_atoms, generator=generator) < 0.9).float()
    code, _ = bank.encode_and_decode(image, encoder, mask)

    matrix = synthesis_matrix(bank)
    target = (image - image.mean(dim=(2, 3), keepdim=True)).double().numpy().ravel()
    per_atom = (bank.subset[1] * mask[0]).bool().numpy()
    active = np.repeat(per_atom, (SIDE // bank.stride) ** 2)
    lasso = Lasso(alpha=0.1 / len(target), fit_intercept=False, max_iter=100_000, tol=1e-8)
    reference = lasso.fit(matrix[:, active], target).coef_

    def objective(coefficients: np.ndarray) -> float:
        residual = target - matrix[:, active] @ coefficients
        return 0.5 * float(residual @ residual) + 0.1 * float(np.abs(coefficients).sum())

    found = code.detach().double().numpy().ravel()
    assert np.all(found[~active] == 0)
    assert objective(found[active]) == pytest.approx(objective(reference), rel=0.01)
    assert objective(reference) < 0.9 * objective(np.zeros(active.sum()))


def test_the_step_is_the_inverse_of_the_largest_eigenvalue(bank: SparseEncodingPurifier) -> None:
    exact = np.linalg.norm(synthesis_matrix(bank), 2) ** 2
    assert float(bank.lambda_max) == pytest.approx(exact, rel=1e-3)
    assert float(bank.step_size()) == pytest.approx(0.9 / exact, rel=1e-3)


def test_a_new_dictionary_is_a_tight_frame_away_from_the_border() -> None:
    bank = SparseEncodingPurifier(generator=torch.Generator().manual_seed(0))
    assert float(bank.lambda_max) == pytest.approx(8, rel=1e-3)
    image = torch.rand(1, 3, 32, 32)
    code = F.conv2d(image, bank.unit_atoms(), stride=2, padding=1)
    back = F.conv_transpose2d(code, bank.unit_atoms(), stride=2, padding=1)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(back[inner], 8 * image[inner], rtol=1e-4, atol=1e-4)


def test_sub_encoders_differ_and_hold_their_share_of_atoms() -> None:
    bank = SparseEncodingPurifier(
        n_purifiers=4, atoms_per_encoder=80, generator=torch.Generator().manual_seed(0)
    )
    assert bank.subset.sum(dim=1).tolist() == [80] * 4
    assert len({tuple(row) for row in bank.subset.tolist()}) == 4


def test_masked_atoms_carry_no_code() -> None:
    bank = SparseEncodingPurifier(generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 96)
    mask[0, 10:20] = 0
    code, purified = bank.encode_and_decode(torch.rand(2, 3, 32, 32), torch.tensor([0, 0]), mask)
    assert code[0, 10:20].abs().max() == 0
    assert code[1, 10:20].abs().max() > 0
    assert purified.min() >= 0
    assert purified.max() <= 1


def test_shrink_is_the_soft_threshold() -> None:
    code = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    torch.testing.assert_close(shrink(code, torch.tensor(0.75)), torch.tensor([-1.25, 0.0, 0.0, 0.0, 1.25]))
    torch.testing.assert_close(shrink(code, torch.tensor(0.75)), F.softshrink(code, 0.75))


def test_a_blank_image_stays_blank() -> None:
    bank = SparseEncodingPurifier(generator=torch.Generator().manual_seed(0))
    blank = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(bank(blank, torch.tensor([0]), torch.ones(1, 96)), blank)
    assert contrast_ratio(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).item() == 4


@pytest.mark.parametrize("index", range(4))
def test_a_single_purifier_is_its_part_of_the_bank(index: int) -> None:
    generator = torch.Generator().manual_seed(index)
    bank = SparseEncodingPurifier(generator=generator).requires_grad_(False)
    images, masks = torch.rand(5, 3, 32, 32, generator=generator), torch.ones(5, 96)
    masks[:, :9] = 0
    together = bank(images, torch.full((5,), index), masks)
    alone = SingleSparsePurifier(bank, index)
    for image, mask, expected in zip(images, masks, together, strict=True):
        torch.testing.assert_close(alone(image[None], mask[None])[0], expected)


@pytest.mark.parametrize(("height", "width", "patch"), [(33, 33, 4), (31, 20, 4), (30, 45, 8), (227, 227, 4)])
def test_an_image_of_any_side_is_purified(height: int, width: int, patch: int) -> None:
    """As the same image with its last row and column repeated, cropped; the exported purifier does so too."""
    generator = torch.Generator().manual_seed(0)
    bank = SparseEncodingPurifier(
        n_purifiers=2, atoms=192, atoms_per_encoder=160, patch=patch, image_size=33, generator=generator
    )
    images, stride = torch.rand(2, 3, height, width, generator=generator), patch // 2
    encoder, mask = torch.tensor([0, 1]), torch.ones(2, 192)
    with torch.no_grad():
        found = bank(images, encoder, mask)
        bottom, right = -height % stride, -width % stride
        padded = F.pad(images, (0, right, 0, bottom), mode="replicate")
        expected = bank(padded, encoder, mask)[:, :, :height, :width]
        single = bank.single(1)(images[1:], mask[1:])
    assert found.shape == images.shape
    assert bottom or right
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(single, found[1:], rtol=0, atol=1e-5)
    assert (found - images).abs().mean() < 0.1
