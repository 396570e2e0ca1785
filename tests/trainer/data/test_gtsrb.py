"""GTSRB: both layouts give the same signs, tracks stay together, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from trainer.data import GTSRB_LABELS, DataError, Images, open_dataset, split_validation

RANDOM = np.random.default_rng(0)
HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
N_TEST = 60


def write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


@pytest.fixture
def own_layout(tmp_path: Path) -> Path:
    """As published: signs of 20 pixels a side at (5, 6) in pictures of 30 x 31, two tracks of three each."""
    training, test = tmp_path / "GTSRB/Final_Training/Images", tmp_path / "GTSRB/Final_Test/Images"
    for target in range(43):
        rows = []
        for track in range(2):
            for frame in range(3):
                name = f"{track:05d}_{frame:05d}.ppm"
                write(training / f"{target:05d}" / name, RANDOM.integers(0, 256, (31, 30, 3), np.uint8))
                rows.append(f"{name};30;31;5;6;24;25;{target}")
        (training / f"{target:05d}" / f"GT-{target:05d}.csv").write_text("\n".join([HEADER, *rows[::-1]]))
    rows = []
    for i in range(N_TEST):
        write(test / f"{i:05d}.ppm", RANDOM.integers(0, 256, (31, 30, 3), np.uint8))
        rows.append(f"{i:05d}.ppm;30;31;5;6;24;25;{i % 43}")
    (tmp_path / "GTSRB" / "GT-final_test.csv").write_text("\n".join([HEADER, *rows]))
    return tmp_path


def crop_all(own: Path, to: Path) -> Path:
    """The same signs in the other layout, lossless: a tenth of margin around the box, as it is."""
    for path in sorted(own.glob("GTSRB/Final_Training/Images/*/*.ppm")):
        sign = cv2.imread(str(path))[4:28, 3:27]
        write(to / "train" / f"{int(path.parent.name):02d}" / f"{path.stem}.png", sign)
    for i, path in enumerate(sorted(own.glob("GTSRB/Final_Test/Images/*.ppm"))):
        write(to / "test" / f"{i % 43:02d}" / f"{path.stem}.png", cv2.imread(str(path))[4:28, 3:27])
    return to


def test_both_layouts_hold_the_same(own_layout: Path, tmp_path: Path) -> None:
    cropped = crop_all(own_layout, tmp_path / "cropped")
    for split in ("train", "test"):
        own, other = (open_dataset("gtsrb", folder, split, image_size=24) for folder in (own_layout, cropped))
        assert isinstance(own, Images)
        assert isinstance(other, Images)
        assert torch.equal(own.pixels, other.pixels)
        assert torch.equal(own.targets, other.targets)
        assert own.labels == GTSRB_LABELS
    first = cv2.imread(str(own_layout / "GTSRB/Final_Training/Images/00000/00000_00000.ppm"))[4:28, 3:27]
    training = open_dataset("gtsrb", own_layout, "train", image_size=24)
    assert torch.equal(training[:1].pixels[0], torch.from_numpy(first[:, :, ::-1].transpose(2, 0, 1).copy()))
    assert training.targets.tolist() == [target for target in range(43) for _ in range(6)]


def test_a_track_is_in_one_part_of_the_split(own_layout: Path) -> None:
    """Whole tracks until there are enough; which ones depends on their number alone."""
    images = open_dataset("gtsrb", own_layout, "train")
    training, validation = split_validation(images, 20)
    assert isinstance(training, Images)
    assert isinstance(validation, Images)
    assert (len(validation), len(training)) == (21, 43 * 6 - 21)
    tracks = [set(part.groups.tolist()) for part in (training, validation)]
    assert not tracks[0] & tracks[1]
    assert len(tracks[1]) == 7
    assert torch.equal(split_validation(images, 20)[1].pixels, validation.pixels)


def test_groups_survive_what_is_done_to_images(own_layout: Path) -> None:
    images = open_dataset("gtsrb", own_layout, "train")
    assert isinstance(images, Images)
    rows = torch.tensor([7, 3])
    assert torch.equal(images[rows].groups, images.groups[rows])
    assert torch.equal(images.subset(slice(4)).groups, images.groups[:4])


def test_a_validation_part_of_all_groups_is_refused(own_layout: Path) -> None:
    images = open_dataset("gtsrb", own_layout, "train")
    with pytest.raises(DataError, match=r"data\.validation: 257 images in whole groups leave none"):
        split_validation(images, 257)


def test_names_are_in_the_benchmarks_order() -> None:
    assert len(set(GTSRB_LABELS)) == len(GTSRB_LABELS) == 43
    expected = {0: "speed limit 20", 13: "yield", 14: "stop", 17: "no entry", 40: "roundabout"}
    assert {index: GTSRB_LABELS[index] for index in expected} == expected


@pytest.mark.parametrize(
    ("break_it", "split", "message"),
    [
        (lambda root: (root / "Final_Training/Images/00003/GT-00003.csv").unlink(), "train", "GT-00003.csv"),
        (
            lambda root: (root / "Final_Training/Images/00003/GT-00003.csv").write_text(
                "Filename;ClassId\na;1"
            ),
            "train",
            "line 2: expected Filename, Roi.X1",
        ),
        (
            lambda root: (root / "Final_Training/Images/00003/GT-00003.csv").write_text(
                f"{HEADER}\n../x.ppm;1;1;0;0;1;1;3"
            ),
            "train",
            "expected a file's name",
        ),
        (
            lambda root: (root / "Final_Training/Images/00003/GT-00003.csv").write_text(
                f"{HEADER}\n00000_00000.ppm;1;1;0;0;1;1;43"
            ),
            "train",
            "impossible box or class",
        ),
        (lambda root: (root / "GT-final_test.csv").unlink(), "test", "GT-final_test.csv"),
        (
            lambda root: (root / "Final_Test/Images/00005.ppm").write_bytes(b"P6"),
            "test",
            "00005.ppm: not a picture",
        ),
    ],
)
def test_what_is_wrong_is_named(own_layout: Path, break_it: object, split: str, message: str) -> None:
    break_it(own_layout / "GTSRB")
    with pytest.raises(DataError) as caught:
        open_dataset("gtsrb", own_layout, split)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_without_its_track_is_refused(own_layout: Path, tmp_path: Path) -> None:
    cropped = crop_all(own_layout, tmp_path / "cropped")
    (cropped / "train/07/00000_00000.png").rename(cropped / "train/07/sign.png")
    with pytest.raises(DataError, match=r"sign\.png: expected a name TRACK_FRAME"):
        open_dataset("gtsrb", cropped, "train")
