"""Frames of any size become the engines' image: centred, anti-aliased, RGB in [0, 1]."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.bundle import Image
from sdk.errors import UsageError
from sdk.preprocess import Preprocessor, resize

sides = st.integers(1, 300)
targets = st.integers(1, 40)


@given(sides, sides, targets, targets, st.tuples(*[st.integers(0, 255)] * 3))
def test_a_plain_frame_of_any_size_stays_plain(
    frame_height: int, frame_width: int, height: int, width: int, bgr: tuple[int, int, int]
) -> None:
    frame = np.full((frame_height, frame_width, 3), bgr, np.uint8)
    image = Preprocessor(Image(height, width))(frame)
    assert (image.shape, image.dtype) == ((1, 3, height, width), np.float32)
    expected = np.array(bgr[::-1], np.float32)[:, None, None] / 255
    np.testing.assert_allclose(image[0], np.broadcast_to(expected, image[0].shape), atol=1e-6)


@given(sides, sides, st.integers(0, 2**32 - 1))
def test_values_stay_in_range(frame_height: int, frame_width: int, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (frame_height, frame_width, 3), np.uint8)
    image = Preprocessor(Image(12, 9))(frame)
    assert np.isfinite(image).all()
    assert frame.min() / 255 - 1e-6 <= image.min() <= image.max() <= frame.max() / 255 + 1e-6


def test_every_byte_maps_to_itself_over_255() -> None:
    frame = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    image = Preprocessor(Image(16, 16))(frame)
    np.testing.assert_allclose(image[0, 0].ravel(), np.arange(256) / 255, atol=6e-8)
    assert (image.min(), image.max()) == (0, 1)


def test_a_frame_of_the_exact_size_is_not_resampled() -> None:
    frame = noise(24, 40)
    assert np.array_equal(resize(frame, 24, 40), frame)


@pytest.mark.parametrize(
    ("frame_size", "target", "used", "off_at_most"),
    [
        ((720, 1280), (32, 32), (704, 704), 1.0),  # a factor of 22 keeps 98 % of the height
        ((1080, 1920), (32, 32), (1024, 1024), 1.0),  # 32, since 33 is odd
        ((480, 640), (32, 32), (448, 448), 1.0),  # 14, since 15 is odd
        ((720, 1280), (224, 224), (672, 672), 0.51),  # 3, since 2 would lose too much
        ((100, 100), (32, 48), (64, 96), 0.51),
        ((35, 35), (32, 32), (32, 32), 0.51),
    ],
)
def test_an_integer_factor_averages_its_blocks(
    frame_size: tuple[int, int], target: tuple[int, int], used: tuple[int, int], off_at_most: float
) -> None:
    """One pass rounds by half a grey level at most, two by one."""
    frame = noise(*frame_size)
    (top, left), (height, width) = [(f - u) // 2 for f, u in zip(frame_size, used, strict=True)], target
    crop = frame[top : top + used[0], left : left + used[1]].astype(float)
    blocks = crop.reshape(height, used[0] // height, width, used[1] // width, 3).mean(axis=(1, 3))
    pixels = resize(frame, *target)
    np.testing.assert_allclose(pixels, blocks, atol=off_at_most)
    assert abs((pixels - blocks).mean()) < 0.2, "rounding twice hardly brightens the image"


@pytest.mark.parametrize("frame_size", [(60, 60), (60, 90), (45, 200), (180, 150), (1080, 1920)])
def test_where_an_integer_factor_would_cut_too_much_the_whole_square_is_seen(
    frame_size: tuple[int, int],
) -> None:
    frame = np.zeros((*frame_size, 3), np.uint8)
    side = min(frame_size)
    top, left = (frame_size[0] - side) // 2, (frame_size[1] - side) // 2
    frame[top : top + side, left : left + side] = 50
    frame[top : top + side, left : left + side // 8] = 250  # a stripe at the edge
    target = 224 if side > 1000 else 32
    pixels = resize(frame, target, target)
    assert pixels[:, 0].min() > 200
    np.testing.assert_allclose(pixels[:, target // 2 :], 50, atol=1)
    square = frame[top : top + side, left : left + side]
    in_one_step = cv2.resize(square, (target, target), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(pixels, in_one_step, atol=25)  # an edge may cross a block of the first step


def test_fine_patterns_are_averaged_away_not_aliased() -> None:
    frame = np.zeros((720, 1280, 3), np.uint8)
    frame[::2] = 255  # what a bilinear resize by 22 turns into stripes of its own
    np.testing.assert_allclose(resize(frame, 32, 32), 127.5, atol=1)
    stripes = cv2.resize(frame, (32, 32), interpolation=cv2.INTER_NEAREST)
    assert stripes.max() - stripes.min() > 200


@pytest.mark.parametrize("frame_size", [(4, 4), (9, 30), (31, 32), (1, 1)])
def test_a_small_frame_is_enlarged_bilinearly(frame_size: tuple[int, int]) -> None:
    frame = noise(*frame_size)
    side = min(frame_size)
    top, left = (frame_size[0] - side) // 2, (frame_size[1] - side) // 2
    square = frame[top : top + side, left : left + side]
    expected = cv2.resize(square, (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize(frame, 32, 32), expected)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[:, :, ::-1], np.s_[::2, ::3]])
def test_strided_and_read_only_frames_are_taken(view: Any) -> None:
    frame = noise(96, 128)
    frame.flags.writeable = False
    assert np.array_equal(resize(frame[view], 10, 12), resize(np.ascontiguousarray(frame[view]), 10, 12))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "got None; cv2.imread returns None for a file it can't read"),
        ([[1]], "expected a numpy array, HxWx3 uint8 BGR, got list"),
        (np.zeros((4, 4), np.uint8), r"got uint8 of shape \(4, 4\); convert grey .* cv2.COLOR_GRAY2BGR"),
        (
            np.zeros((4, 4, 4), np.uint8),
            r"got uint8 of shape \(4, 4, 4\); drop the alpha .* cv2.COLOR_BGRA2BGR",
        ),
        (np.zeros((3, 4, 4, 3), np.uint8), "pass one frame at a time"),
        (np.zeros((3, 32, 32), np.uint8), "the last axis must be the three colour channels"),
        (np.zeros((4, 4, 3), np.float32), "got float32 .* scale the values to 0..255"),
        (np.zeros((0, 4, 3), np.uint8), "the frame is empty"),
    ],
)
def test_a_wrong_frame_is_named_with_its_mend(frame: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessor(Image(16, 16))(frame)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
