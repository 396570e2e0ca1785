"""Annotated pictures in a folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk.sinks import (
    AnnotatedImages,
    open_save,
)
from sdk.sinks.annotate import annotate, annotate_regions
from sdk.sources.roi import Roi
from tests.sdk.conftest import make_frame, make_result


def test_pictures_are_named_after_source_and_index(tmp_path: Path) -> None:
    with open_save(tmp_path / "new" / "folder", None) as sink:
        assert isinstance(sink, AnnotatedImages)
        for index in (0, 12):
            sink.write(make_frame(index), make_result())
    names = sorted(entry.name for entry in (tmp_path / "new" / "folder").iterdir())
    assert names == ["clip-000000.png", "clip-000012.png"]
    picture = cv2.imread(str(tmp_path / "new" / "folder" / names[1]))
    assert np.array_equal(picture, annotate(make_frame().image, make_result()))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("n" * 251 + ".mp4", "n" * 200 + "-000000.png"),
        ("ä" * 125 + ".mp4", "ä" * 100 + "-000000.png"),
        (os.fsdecode(b"caf\xe9.mp4"), "caf-000000.png"),
        ("-.mp4", "frame-000000.png"),
    ],
)
def test_any_source_s_name_gives_a_file_s_name(source: str, name: str, tmp_path: Path) -> None:
    with open_save(tmp_path / "out", None) as sink:
        sink.write(dataclasses.replace(make_frame(), source=source), make_result())
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [name]


def test_all_regions_of_a_frame_are_in_one_picture(tmp_path: Path) -> None:
    rois = (Roi(0, 0, 20, 20), Roi(20, 20, 20, 20))
    frame = dataclasses.replace(make_frame(), rois=rois)
    results = [dataclasses.replace(make_result(), region=roi) for roi in rois]
    with open_save(tmp_path / "out", None) as sink:
        sink.write_regions(frame, results)
    picture = cv2.imread(str(tmp_path / "out" / "clip-000000.png"))
    assert np.array_equal(picture, annotate_regions(frame, results))
