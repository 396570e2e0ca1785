"""Annotated pictures in a folder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sdk.sinks import (
    AnnotatedImages,
    open_save,
)
from sdk.sinks.annotate import annotate
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
