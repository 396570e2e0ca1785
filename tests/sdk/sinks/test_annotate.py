"""Annotated frames: what is in them, at every size."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.sinks.annotate import annotate, annotate_regions, mark_regions
from sdk.sources.roi import Roi
from tests.sdk.conftest import make_frame, make_result

RED = (0, 0, 255)


def test_suspicion_is_shown_where_there_is_one() -> None:
    image = make_frame().image
    plain, low, high = (
        annotate(image, dataclasses.replace(make_result(), suspicion=value)) for value in (None, 0.02, 0.97)
    )
    height = image.shape[0] * (plain.shape[1] // image.shape[1])  # the bar is below
    assert not np.array_equal(plain[height:], low[height:])
    assert not np.array_equal(low[height:], high[height:])


@settings(max_examples=40)
@given(height=st.integers(1, 700), width=st.integers(1, 2500))
def test_any_frame_becomes_a_picture_that_a_video_can_take(height: int, width: int) -> None:
    image = np.full((height, width, 3), 90, np.uint8)
    picture = annotate(image, make_result())
    assert picture.dtype == np.uint8
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert 640 <= picture.shape[1] <= 1920
    assert np.all(image == 90), "the frame must not be drawn on"


@pytest.mark.parametrize("size", [(64, 64), (480, 640), (1080, 1920)])
def test_picture_shows_the_frame_the_purified_inset_and_text(size: tuple[int, int]) -> None:
    frame = make_frame(size=size)
    picture = annotate(frame.image, make_result())
    red = np.all(np.abs(picture.astype(int) - RED) < 8, axis=2)
    rows, columns = np.nonzero(red)
    side = 0.28 * min(picture.shape[0] - bar_height(picture), picture.shape[1])
    assert np.ptp(rows) == pytest.approx(side, abs=3), "the inset is square and of its share"
    assert np.ptp(columns) == pytest.approx(side, abs=3)
    assert tuple(picture[5, 5]) == tuple(frame.image[0, 0])
    bar = picture[-bar_height(picture) :]
    left, right = bar[4:, : bar.shape[1] // 2], bar[4:, bar.shape[1] // 2 :]
    assert (left > 200).any(), "the label is on the left"
    assert ((right > 130).all(axis=2)).sum() > 100, "the engines are on the right"


def bar_height(picture: np.ndarray) -> int:
    return 2 * round(32 * max(0.85, picture.shape[1] / 960))


@pytest.mark.parametrize("score", [0.2, 0.6, 1.0])
def test_score_line_is_as_long_as_the_score(score: float) -> None:
    picture = annotate(make_frame(size=(480, 640)).image, make_result(score=score))
    line = picture[-bar_height(picture)]
    lit = (line.max(axis=1) > 120).mean()
    assert lit == pytest.approx(score, abs=0.005)


def test_skipped_frame_is_marked_and_shows_no_purified_picture() -> None:
    picture = annotate(make_frame(size=(480, 640)).image, make_result(label=None))
    assert np.all(picture[-bar_height(picture)] == (80, 80, 235)), "a red line"
    assert np.all(picture[: 480 - 1] == (200, 60, 60)), "the frame alone"


def test_long_label_leaves_the_engines_readable() -> None:
    short = annotate(make_frame(size=(480, 640)).image, make_result("cat"))
    long = annotate(make_frame(size=(480, 640)).image, make_result("tabby cat, " * 20))
    right = slice(485, None)
    assert np.array_equal(short[480:, right], long[480:, right])


# --- unsure, and several regions

AMBER = (60, 180, 245)


def test_unsure_is_amber_and_names_no_class() -> None:
    result = dataclasses.replace(make_result(score=0.3), label="unsure", accepted=False)
    picture = annotate(make_frame(size=(480, 640)).image, result)
    line = picture[-bar_height(picture)]
    assert tuple(line[2]) == AMBER
    assert not (picture[480 + 4 :, :300] > 240).all(axis=2).any(), "no label in white, as a decision has"
    sure = annotate(make_frame(size=(480, 640)).image, make_result(score=0.9))
    assert tuple(sure[-bar_height(sure)][2]) != AMBER


def test_every_region_is_drawn_with_its_own_decision() -> None:
    rois = (Roi(20, 40, 200, 160), Roi(300, 240, 300, 200))
    frame = dataclasses.replace(make_frame(size=(480, 640)), rois=rois)
    frame.image[:] = 0
    results = [
        dataclasses.replace(make_result("red", score=0.9), region=rois[0]),
        dataclasses.replace(make_result(label=None), region=rois[1]),
    ]
    picture = annotate_regions(frame, results)
    assert tuple(picture[150, 20]) == (110, 200, 90), "green: a decision"
    assert tuple(picture[400, 300]) == (80, 80, 235), "red: none"
    tag = picture[40:58, 22:120]
    assert (tag > 80).any(), "the label is inside the region's upper edge"
    assert not picture[205:230, 20:220].any(), "nothing is drawn elsewhere"
    assert picture.shape == annotate(frame.image, results[0]).shape
    marked = mark_regions(frame, results)
    assert marked.shape == (480, 640, 3)
    assert not frame.image.any(), "the frame must not be drawn on"


def test_one_region_is_drawn_as_a_frame_with_a_region_is() -> None:
    frame, roi = make_frame(size=(480, 640)), Roi(20, 40, 200, 160)
    result = dataclasses.replace(make_result(), region=roi)
    assert np.array_equal(annotate_regions(frame, [result]), annotate(frame.image, result, roi))


@pytest.mark.parametrize("size", [(1, 1), (20, 2000), (1080, 1920)])
def test_regions_at_every_size(size: tuple[int, int]) -> None:
    rois = [Roi(0, 0, 1, 1), Roi(size[1] - 1, size[0] - 1, 1, 1), Roi(0, 0, size[1], size[0])]
    frame = dataclasses.replace(make_frame(size=size), rois=tuple(rois))
    results = [dataclasses.replace(make_result("a long label " * 9), region=roi) for roi in rois]
    assert annotate_regions(frame, results).shape == annotate(frame.image, results[0]).shape


def test_error_with_a_name_that_is_no_text_is_drawn() -> None:
    """A file's name may hold any bytes, and an error may hold a file's name."""
    result = dataclasses.replace(
        make_result(label=None), error=os.fsdecode(b"caf\xe9.jpg: cut short\x1b[31m")
    )
    assert annotate(make_frame().image, result).shape[1] >= 640
    frame = dataclasses.replace(make_frame(), rois=(Roi(0, 0, 9, 9), Roi(9, 9, 9, 9)))
    labelled = [dataclasses.replace(make_result("\udce9\x1b"), region=roi) for roi in frame.rois]
    assert annotate_regions(frame, labelled).shape[1] >= 640
