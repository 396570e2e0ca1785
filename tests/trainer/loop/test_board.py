"""TensorBoard gets curves and pictures."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.conftest import small
from trainer.data import Images
from trainer.loop.fit import fit
from trainer.loop.tensorboard import Board


@pytest.mark.parametrize("name", ["ren-cifar10-edge-clean", "plain-cifar10-edge-at"])
def test_a_run_leaves_curves_and_a_picture_an_epoch(name: str, digits: Images, tmp_path: Path) -> None:
    config = small(name, "optimizer.batch_size=32")
    before = set(threading.enumerate())
    with Board(tmp_path / "board") as board:
        fit(config, digits[:416], digits[416:448], tmp_path, report=board)
    assert set(threading.enumerate()) <= before
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    scalars = events.Tags()["scalars"]
    assert "speed/images_per_s" in scalars
    assert any(tag.startswith("training/") for tag in scalars)
    purified = [(point.step, point.value) for point in events.Scalars("validation/purified")]
    assert [step for step, _ in purified] == [13, 26]  # 13 steps an epoch
    assert all(0 <= value <= 1 for _, value in purified)
    images = events.Images("input, attacked, purified")
    assert [image.step for image in images] == [13, 26]
    assert (images[0].width, images[0].height) == (8 * 16, 3 * 16)
