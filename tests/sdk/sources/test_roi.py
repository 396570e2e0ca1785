"""The region of interest: that it alone is purified, shown and recorded."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.cli import main
from sdk.errors import UsageError
from sdk.loop import run
from sdk.purifier import Purifier
from sdk.result import Result
from sdk.sinks import JsonLines
from sdk.sinks.annotate import annotate
from sdk.sinks.record import Record
from sdk.sources import open_source
from sdk.sources.roi import Roi
from tests.sdk.conftest import make_frame, make_result, write_video

PIXELS = st.integers(0, 200)
SIDES = st.integers(1, 200)


@given(x=PIXELS, y=PIXELS, width=SIDES, height=SIDES)
def test_text_and_back(x: int, y: int, width: int, height: int) -> None:
    roi = Roi(x, y, width, height)
    assert Roi.parse(str(roi)) == roi


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4", "-1,0,4,4", "0,-1,4,4", "0,0,0,4", "0,0,4,0"]
)
def test_what_is_no_region_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected .*X,Y,W,H"):
        Roi.parse(text)


@given(x=PIXELS, y=PIXELS, width=SIDES, height=SIDES, size=st.tuples(SIDES, SIDES))
def test_region_lies_in_the_frame_whole_or_is_refused(
    x: int, y: int, width: int, height: int, size: tuple[int, int]
) -> None:
    roi, frame = Roi(x, y, width, height), np.zeros((*size, 3), np.uint8)
    if x + width <= size[1] and y + height <= size[0]:
        roi.check(frame, "clip.mp4")
        crop = roi.crop(frame)
        assert crop.shape == (height, width, 3)
        crop[:] = 7
        assert int(frame.sum()) == 7 * 3 * width * height, "a view of that part, and no copy"
    else:
        with pytest.raises(UsageError, match=rf"the {size[1]} x {size[0]} pixels of a frame of clip\.mp4"):
            roi.check(frame, "clip.mp4")


@pytest.fixture
def half_red(tmp_path: Path) -> Path:
    """A 96x64 picture: blue, and red in its right half."""
    picture = np.full((64, 96, 3), (220, 30, 30), np.uint8)
    picture[:, 48:] = (30, 30, 220)
    cv2.imwrite(str(tmp_path / "half.png"), picture)
    return tmp_path / "half.png"


def test_label_is_of_the_region_alone(tiny_bundle: Path, half_red: Path) -> None:
    with Purifier.load(tiny_bundle) as purifier:
        labels = [next(purifier.stream(half_red, roi=Roi(x, 0, 48, 64))).label for x in (0, 48)]
    assert labels == ["blue", "red"]


def test_no_pixel_outside_the_region_reaches_the_engines(tiny_bundle: Path, half_red: Path) -> None:
    def probabilities() -> np.ndarray:
        with Purifier.load(tiny_bundle, seed=1) as purifier:
            found = next(purifier.stream(half_red, roi=Roi(30, 10, 40, 40))).probabilities
            assert found is not None
            return found

    before = probabilities()
    picture = cv2.imread(str(half_red))
    inside = picture[10:50, 30:70].copy()
    picture[:] = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    picture[10:50, 30:70] = inside
    cv2.imwrite(str(half_red), picture)
    assert np.array_equal(probabilities(), before)
    picture[10, 30] ^= 255
    cv2.imwrite(str(half_red), picture)
    assert not np.array_equal(probabilities(), before), "its corner counts"


def test_loop_purifies_the_region_and_records_it(tmp_path: Path) -> None:
    clip, lines = write_video(tmp_path / "clip.avi", 5), tmp_path / "out.jsonl"
    shapes = []

    def purify(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
        shapes.append(image.shape)
        return make_result()

    source = open_source(clip, roi=Roi(8, 4, 40, 20))
    assert (source.total, source.fps, source.live) == (5, 25.0, False)
    run(purify, source, [JsonLines(lines, ("red", "blue"))])
    assert shapes == [(20, 40, 3)] * 5
    records = [msgspec.json.decode(line, type=Record) for line in lines.read_bytes().splitlines()]
    assert {record.roi for record in records} == {Roi(8, 4, 40, 20)}


def test_picture_shows_the_whole_frame_with_the_region_marked() -> None:
    image = make_frame(size=(480, 640)).image
    plain, marked = annotate(image, make_result()), annotate(image, make_result(), Roi(100, 200, 300, 100))
    rows, columns = np.nonzero((plain != marked).any(axis=2))
    assert (rows.min(), rows.max()) == pytest.approx((200, 299), abs=3)
    assert (columns.min(), columns.max()) == pytest.approx((100, 399), abs=3)
    assert np.array_equal(plain[210:290, 110:390], marked[210:290, 110:390]), "what is inside stays as it is"


def test_region_of_a_large_frame_is_marked_where_it_is() -> None:
    image = make_frame(size=(1440, 2560)).image  # shown at 3/4 of its size
    plain = annotate(image, make_result())
    marked = annotate(image, make_result(), Roi(400, 800, 1200, 400))
    rows, columns = np.nonzero((plain != marked).any(axis=2))
    assert (rows.min(), rows.max()) == pytest.approx((600, 899), abs=6)
    assert (columns.min(), columns.max()) == pytest.approx((300, 1199), abs=6)


@pytest.mark.parametrize(
    ("roi", "expected"),
    [
        ("50,0,50,64", "outside the 96 x 64 pixels of a frame of "),
        ("1,2,3", "expected X,Y,W,H"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(
    roi: str, expected: str, tiny_bundle: Path, half_red: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("--source", str(half_red), "--bundle", str(tiny_bundle)),
                *("--backend", "onnxruntime", "--roi", roi),
            ]
        )
    out, err = capfd.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert expected in err


def test_command_keeps_the_frames_before_one_that_is_too_small(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, lines = tmp_path / "pictures", tmp_path / "out.jsonl"
    folder.mkdir()
    for name, side in (("1.png", 64), ("2.png", 64), ("3.png", 32)):
        cv2.imwrite(str(folder / name), np.full((side, side, 3), (30, 30, 220), np.uint8))
    command = ["--source", folder, "--bundle", tiny_bundle, "--roi", "0,0,64,64", "--json", lines]
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in command])
    assert ended.value.code == 2
    assert "the 32 x 32 pixels of a frame of " in capfd.readouterr().err
    first, second, event = lines.read_bytes().splitlines()
    assert b'"frame":0,' in first
    assert b'"frame":1,' in second
    assert b'"event":"failed"' in event
