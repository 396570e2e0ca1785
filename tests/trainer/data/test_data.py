"""Data sets are read as published, damage is one clear error, and folders stream as memory does."""

from __future__ import annotations

import pickle
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdk.errors import UsageError
from sdk.preprocess import resize
from trainer.config import Data
from trainer.data import (
    CIFAR10_LABELS,
    DataError,
    Images,
    augment,
    check,
    keyed_generator,
    names,
    open_as_trained,
    open_dataset,
    read_cifar10,
    read_svhn,
    split_validation,
)
from trainer.data import folders as folders_module
from trainer.data.folders import BATCHES_AHEAD, ImageFolders
from trainer.image_size import ImageSize

savemat = pytest.importorskip(
    "scipy.io", reason="scipy writes the tests' SVHN; pip install 'edge-purify[dev]'"
).savemat

RANDOM = np.random.default_rng(0)
RECORD = 3073
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
# The folder is the same for all examples of a property, which overwrite what they write there
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def _read_or_refused(read: Callable[[Path, str], Images], folder: Path) -> int | str:
    """The number of test images, or the error's text."""
    try:
        return len(read(folder, "test"))
    except DataError as error:
        return str(error)


def _records(count: int) -> np.ndarray:
    records = RANDOM.integers(0, 256, (count, RECORD), dtype=np.uint8)
    records[:, 0] %= 10
    return records


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """CIFAR-10's binary layout with 3 images a batch."""
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for name in [*BATCHES, "test_batch"]:
        (root / f"{name}.bin").write_bytes(_records(3).tobytes())
    return tmp_path


def _write_python_layout(folder: Path, *, protocol: int = 2, order: Literal["C", "F"] = "C") -> None:
    """The python layout of the binary one in ``folder``, in place of it; it was published in protocol 2."""
    binary, python = folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"
    python.mkdir()
    for name in [*BATCHES, "test_batch"]:
        records = np.fromfile(binary / f"{name}.bin", np.uint8).reshape(-1, RECORD)
        batch = {
            b"data": np.array(records[:, 1:], order=order),
            b"labels": records[:, 0].tolist(),
            b"batch_label": b"one",
        }
        (python / name).write_bytes(pickle.dumps(batch, protocol=protocol))
        (binary / f"{name}.bin").unlink()
    binary.rmdir()


def test_cifar10_is_read_plane_by_plane_in_the_order_of_the_batches(cifar10: Path) -> None:
    images = read_cifar10(cifar10, "train")
    files = [cifar10 / "cifar-10-batches-bin" / f"{name}.bin" for name in BATCHES]
    records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, RECORD) for path in files])
    assert len(images) == 15
    assert images.labels == CIFAR10_LABELS
    assert images.targets.tolist() == records[:, 0].tolist()
    # record 7, green, row 2, column 3
    assert images.pixels[7, 1, 2, 3] == records[7, 1 + 1024 + 2 * 32 + 3]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_both_layouts_of_cifar10_hold_the_same(
    cifar10: Path, protocol: int, order: Literal["C", "F"]
) -> None:
    binary = {split: read_cifar10(cifar10, split) for split in ("train", "test")}
    _write_python_layout(cifar10, protocol=protocol, order=order)
    for split, expected in binary.items():
        images = read_cifar10(cifar10, split)
        assert torch.equal(images.pixels, expected.pixels)
        assert torch.equal(images.targets, expected.targets)


def test_the_folder_may_be_the_layout_itself(cifar10: Path) -> None:
    assert len(read_cifar10(cifar10 / "cifar-10-batches-bin", "test")) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            _records(2).tobytes()[:-1],
            "expected records of 3073 bytes, got 6145 bytes, of which the last 3072",
        ),
        (b"", "expected records of 3073 bytes, got 0 bytes"),
        (b"\x0a" + bytes(3072), "record 0: expected a label 0 to 9, got 10"),
        (bytes(3073) + b"\xff" + bytes(3072), "record 1: expected a label 0 to 9, got 255"),
        (None, "can't be read: No such file"),
    ],
    ids=["short record", "empty", "wrong label", "wrong label later", "absent"],
)
def test_a_damaged_binary_batch_is_named(cifar10: Path, content: bytes | None, message: str) -> None:
    path = cifar10 / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_3\.bin: {message}") as caught:
        read_cifar10(cifar10, "train")
    assert "run 'edge-train data cifar10'" in str(caught.value)


class _Opens:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


PIXELS = np.zeros((1, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "expected a dict with data and labels"),
        ({b"data": PIXELS}, "expected a dict with data and labels"),
        ({b"data": PIXELS, b"labels": [10]}, "record 0: expected a label 0 to 9, got 10"),
        ({b"data": PIXELS, b"labels": [-1]}, "record 0: expected a label 0 to 9, got -1"),
        ({b"data": PIXELS, b"labels": [2**70]}, "record 0: expected a label 0 to 9, got 1180"),
        ({b"data": PIXELS, b"labels": [3.5]}, "labels: expected a list of whole numbers"),
        ({b"data": PIXELS, b"labels": 3}, "labels: expected a list of whole numbers"),
        (
            {b"data": PIXELS, b"labels": [1, 2]},
            r"data: expected a uint8 array of shape \(2, 3072\), got another",
        ),
        (
            {b"data": PIXELS.astype(float), b"labels": [1]},
            r"data: expected a uint8 array of shape \(1, 3072\)",
        ),
        ({b"data": PIXELS[0], b"labels": [1]}, "data: expected a uint8 array"),
        ({b"data": b"x", b"labels": [1]}, "data: expected a uint8 array"),
    ],
)
def test_a_damaged_python_batch_is_named(cifar10: Path, batch: object, message: str) -> None:
    _write_python_layout(cifar10)
    (cifar10 / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=f"test_batch: .*{message}"):
        read_cifar10(cifar10, "test")


def test_a_pickle_that_would_run_code_does_not(cifar10: Path) -> None:
    _write_python_layout(cifar10)
    victim = cifar10 / "victim"
    batch = cifar10 / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(pickle.dumps(_Opens(victim), protocol=2))
    with pytest.raises(DataError, match="which no data set needs"):
        read_cifar10(cifar10, "test")
    assert not victim.exists()


@same_folder
@given(data=st.data())
def test_a_changed_or_cut_pickle_is_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    whole = pickle.dumps({b"labels": [1], b"data": PIXELS}, protocol=2)
    head = data.draw(st.integers(0, 250))
    change = data.draw(st.binary(max_size=4))
    path = tmp_path / "test_batch"
    path.write_bytes(
        whole[:head] + change + whole[head + len(change) :][: data.draw(st.integers(0, len(whole)))]
    )
    outcome = _read_or_refused(read_cifar10, tmp_path)
    assert outcome == 1 or "\n" not in outcome


def _write_svhn(
    path: Path, labels: list[int] | np.ndarray, *, compressed: bool = True, **others: np.ndarray
) -> np.ndarray:
    """SVHN's file with random pixels for ``labels``; returns the pixels, (32, 32, 3, N)."""
    pixels = RANDOM.integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8)
    arrays = {"X": pixels, "y": np.array(labels)[:, None], **others}
    path.parent.mkdir(exist_ok=True)
    savemat(path, arrays, do_compression=compressed)
    return pixels


@same_folder
@given(
    labels=st.lists(st.integers(1, 10), min_size=1, max_size=9),
    dtype=st.sampled_from(["u1", "i2", "i4", "i8", "f8"]),
    compressed=st.booleans(),
)
def test_svhn_equals_what_scipy_wrote(
    tmp_path: Path, labels: list[int], dtype: str, compressed: bool
) -> None:
    pixels = _write_svhn(tmp_path / "svhn/test_32x32.mat", np.array(labels, dtype), compressed=compressed)
    images = read_svhn(tmp_path, "test")
    assert images.targets.tolist() == [label % 10 for label in labels]
    assert images.labels[0] == "0"
    assert np.array_equal(images.pixels.numpy(), pixels.transpose(3, 2, 0, 1))


def test_arrays_that_svhn_does_not_need_are_passed_over(tmp_path: Path) -> None:
    _write_svhn(
        tmp_path / "train_32x32.mat", [10, 1], text=np.array(["note"]), cells=np.array([{}], dtype=object)
    )
    assert read_svhn(tmp_path, "train").targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.array([[1], [0]])}, "record 1: expected a label 1 to 10, got 0"),
        ({"y": np.array([[11], [1]])}, "record 0: expected a label 1 to 10, got 11"),
        ({"y": np.array([[1.5], [1]])}, "record 0: expected a label 1 to 10, got 1.5"),
        ({"y": np.array([[np.nan], [1]])}, "record 0: expected a label 1 to 10, got nan"),
        ({"y": np.array([[1]])}, "y: expected a label for each of 2 images"),
        ({"y": np.array([[1j], [1]])}, "y: not a real numeric array"),
        ({"X": np.zeros((32, 32, 3, 2))}, r"X: expected uint8 \(32, 32, 3, N\), got float64"),
        ({"X": np.zeros((32, 31, 3, 2), np.uint8)}, r"got uint8 \(32, 31, 3, 2\)"),
        ({"X": np.array(["text"])}, "X: not a real numeric array"),
    ],
)
def test_wrong_svhn_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "svhn/test_32x32.mat"
    _write_svhn(path, [1, 2], **arrays)
    with pytest.raises(DataError, match=rf"test_32x32\.mat: .*{message}"):
        read_svhn(tmp_path, "test")


def test_svhn_without_labels_is_named(tmp_path: Path) -> None:
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 1), np.uint8)})
    with pytest.raises(DataError, match="expected the arrays X and y, found no y"):
        read_svhn(tmp_path, "test")


@same_folder
@given(data=st.data(), compressed=st.booleans())
def test_svhn_cut_short_is_always_refused(tmp_path: Path, data: st.DataObject, compressed: bool) -> None:
    path = tmp_path / "test_32x32.mat"
    _write_svhn(path, [1, 2, 3], compressed=compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=r"test_32x32\.mat: .*run 'edge-train data svhn'") as caught:
        read_svhn(tmp_path, "test")
    assert "\n" not in str(caught.value)


@same_folder
@given(data=st.data(), compressed=st.booleans())
def test_a_changed_svhn_is_read_or_refused_in_one_line(
    tmp_path: Path, data: st.DataObject, compressed: bool
) -> None:
    path = tmp_path / "test_32x32.mat"
    _write_svhn(path, [1, 2, 3], compressed=compressed)
    damaged = bytearray(path.read_bytes())
    near_structure = st.one_of(st.integers(0, 250), st.integers(-100, -1))
    for position, value in data.draw(st.lists(st.tuples(near_structure, st.integers(0, 255)), max_size=4)):
        damaged[position] = value
    path.write_bytes(damaged)
    outcome = _read_or_refused(read_svhn, tmp_path)
    assert outcome == 3 or "\n" not in outcome


def _picture(path: Path, height: int = 24, width: int = 24) -> np.ndarray:
    """Write a random picture; returns it, HxWx3 BGR."""
    pixels = RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return pixels


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes, 7 training and 2 test images of 24 x 24 pixels."""
    for index in range(7):
        _picture(tmp_path / "imagenet/train" / ("cat", "dog")[index % 2] / f"{index}.png")
    for name in ("cat", "dog"):
        _picture(tmp_path / "imagenet/val" / name / "0.png")
    return tmp_path


def test_folders_are_read_in_order_and_as_rgb(folders: Path) -> None:
    dataset = open_dataset("imagenet", folders, "train", image_size=24)
    assert dataset.labels == ("cat", "dog")
    assert dataset.targets.tolist() == [0, 0, 0, 0, 1, 1, 1]
    batch = dataset[torch.tensor([5, 0])]
    assert batch.targets.tolist() == [1, 0]
    for image, path in zip(batch.pixels, ("dog/3.png", "cat/0.png"), strict=True):
        expected = cv2.imread(str(folders / "imagenet/train" / path))[:, :, ::-1].transpose(2, 0, 1)
        assert np.array_equal(image.numpy(), expected)


@pytest.mark.parametrize(("image_size", "height", "width"), [(32, 32, 32), ((20, 48), 20, 48)])
def test_pictures_of_any_size_are_resized_as_the_runtime_does(
    tmp_path: Path, image_size: ImageSize, height: int, width: int
) -> None:
    frame = _picture(tmp_path / "train/cat/wide.png", 90, 200)
    [image] = open_dataset("imagenet", tmp_path, "train", image_size=image_size)[:].pixels
    assert np.array_equal(image.numpy(), resize(frame, height, width)[:, :, ::-1].transpose(2, 0, 1))


def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "train/cat"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), np.full((8, 8), 7, np.uint8))
    cv2.imwrite(str(folder / "b.png"), np.full((8, 8, 4), 7, np.uint8))
    assert (open_dataset("imagenet", tmp_path, "train", image_size=8)[:].pixels == 7).all()


def test_a_stream_of_folders_equals_the_same_rows_one_by_one(folders: Path) -> None:
    dataset = open_dataset("imagenet", folders, "train", image_size=16)
    rows = [torch.tensor([6, 2, 2]), torch.tensor([0]), torch.tensor([5, 4]), torch.tensor([1, 3])]
    streamed = list(dataset.stream(rows))
    assert len(streamed) == len(rows)
    for batch, expected in zip(streamed, rows, strict=True):
        assert torch.equal(
            batch.pixels, torch.cat([dataset[row : row + 1].pixels for row in expected.tolist()])
        )
        assert torch.equal(batch.targets, dataset.targets[expected])


def test_a_stream_runs_ahead_by_a_few_batches_and_no_more(folders: Path) -> None:
    begun = []

    def rows() -> Iterator[Tensor]:
        for step in range(10):
            begun.append(step)
            yield torch.tensor([0, 1])

    stream = open_dataset("imagenet", folders, "train", image_size=16).stream(rows())
    next(stream)
    assert len(begun) == 1 + BATCHES_AHEAD
    next(stream)
    assert len(begun) == 2 + BATCHES_AHEAD


def test_batches_of_folders_are_floats_in_order(folders: Path) -> None:
    dataset = open_dataset("imagenet", folders, "train", image_size=16)
    images, targets = (torch.cat(column) for column in zip(*dataset.batches(3), strict=True))
    assert images.dtype == torch.float32
    assert torch.equal((images * 255).round().byte(), dataset[:].pixels)
    assert torch.equal(targets, dataset.targets)


def _cut_jpeg(path: Path) -> None:
    _picture(path.with_suffix(".jpg"), 64, 64)
    path.with_suffix(".jpg").write_bytes(path.with_suffix(".jpg").read_bytes()[:-500])


def _damaged_png(path: Path) -> None:
    _picture(path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "damage",
    [_cut_jpeg, _damaged_png, lambda path: path.write_bytes(b""), lambda path: path.write_text("hello")],
    ids=["cut JPEG", "damaged PNG", "empty", "text called PNG"],
)
def test_a_damaged_picture_ends_its_batch_and_the_stream(
    folders: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    damage(folders / "imagenet/train/dog/9.png")
    dataset = open_dataset("imagenet", folders, "train", image_size=16)
    stream = dataset.stream(torch.arange(len(dataset)).split(4))
    assert len(next(stream)) == 4
    with pytest.raises(DataError, match=r"dog/9\.(png|jpg): not a picture, or a damaged one"):
        next(stream)
    with pytest.raises(DataError, match=r"dog/9\."):
        check("imagenet", folders)
    assert capfd.readouterr().err == ""


def test_a_picture_that_vanished_is_named(folders: Path) -> None:
    dataset = open_dataset("imagenet", folders, "train", image_size=16)
    (folders / "imagenet/train/cat/0.png").unlink()
    with pytest.raises(DataError, match=r"cat/0\.png: can't be read: No such file"):
        dataset[:1]


JUNK = (
    ".DS_Store",
    "cat/.DS_Store",
    "cat/Thumbs.db",
    "cat/._0.png",
    "dog/desktop.ini",
    "readme.md",
    ".ipynb_checkpoints/0.png",
    "__MACOSX/cat/0.png",
    "cat/.ipynb_checkpoints/0-checkpoint.png",
    "@eaDir/0.jpg",
)


def test_junk_is_left_out_and_named_once(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folders / "imagenet/train"
    before = open_dataset("imagenet", folders, "train", image_size=24)
    for name in JUNK:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"junk")
    caplog.clear()
    after = open_dataset("folders", folders, "train", image_size=24)
    assert (after.paths, after.labels) == (before.paths, before.labels)
    assert len(after[:].pixels) == 7
    [record] = caplog.records
    assert f"{root}: left out" in record.message
    assert ".DS_Store" in record.message
    assert "and 5 more" in record.message
    assert "\n" not in record.message


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "emu").mkdir(), "emu: no picture of this class; expected files of the kinds"),
        (
            lambda root: [(root / "emu").mkdir(), (root / "emu/notes.txt").touch()],
            "emu: no picture of this class; expected files of the kinds",
        ),
        (lambda root: [path.rename(root.parent / path.name) for path in root.iterdir()], "no image folders"),
    ],
)
def test_a_class_without_pictures_is_named(
    folders: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folders / "imagenet/train")
    with pytest.raises(DataError, match=message):
        open_dataset("imagenet", folders, "train")


@pytest.fixture
def unsplit(tmp_path: Path) -> Path:
    """Class folders alone, 40 pictures in each; one class is called as a split is."""
    for index in range(40):
        for name in ("zebra", "train", "ant"):
            _picture(tmp_path / name / f"{name[0]}{index}.png", 8, 8)
    return tmp_path


def test_class_folders_without_a_split_are_split_by_name(unsplit: Path) -> None:
    """Each picture's part depends on its own name: others may come and go."""
    training, test = (open_dataset("folders", unsplit, split, image_size=8) for split in ("train", "test"))
    assert training.labels == test.labels == ("ant", "train", "zebra")
    assert not set(training.paths) & set(test.paths)
    assert len(training) + len(test) == 120
    assert 0.7 < len(training) / 120 < 0.9
    for path in training.paths[::3]:
        (unsplit / path).unlink()
    _picture(unsplit / "ant/one-more.png", 8, 8)
    fewer = open_dataset("folders", unsplit, "train", image_size=8)
    assert set(fewer.paths) - {"ant/one-more.png"} <= set(training.paths)
    half = open_dataset("folders", unsplit, "train", image_size=8, train_share=0.5)
    assert set(half.paths) < set(fewer.paths) | {"ant/one-more.png"}


def test_the_split_by_name_never_changes() -> None:
    from trainer.data.class_folders import _rank

    assert [round(_rank(Path(name)), 4) for name in ("0.png", "cat.jpg", "e\u0301.jpg", "\u00e9.jpg")] == [
        0.572,
        0.9389,
        0.8864,
        0.8864,
    ]


def test_a_class_of_one_picture_is_trained_on(tmp_path: Path) -> None:
    for index in range(30):
        _picture(tmp_path / f"class-{index:02d}" / f"{index}.png", 8, 8)
    training = open_dataset("folders", tmp_path, "train", image_size=8)
    assert training.targets.tolist() == list(range(30))
    with pytest.raises(DataError, match="no test picture"):
        open_dataset("folders", tmp_path, "test", image_size=8)


def test_the_order_of_classes_may_be_given(unsplit: Path, tmp_path: Path) -> None:
    """As a list, or as a file of any editor's; classes without a folder keep their place."""
    classes = ("zebra", "yak", "ant", "train")
    file = tmp_path / "labels.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(classes).encode() + b"\r\n\r\n")
    for order in (classes, str(file)):
        found = open_dataset("folders", unsplit, "train", image_size=8, classes=order)
        assert found.labels == classes
        for path, target in zip(found.paths, found.targets.tolist(), strict=True):
            assert classes[target] == path.split("/")[0]


def test_folders_may_be_numbered_in_the_given_order(tmp_path: Path) -> None:
    for name in ("00", "01", "10"):
        _picture(tmp_path / "train" / name / "0.png", 8, 8)
    classes = tuple(f"sign {i}" for i in range(11))
    found = open_dataset("folders", tmp_path, "train", image_size=8, classes=classes)
    assert (found.targets.tolist(), found.labels) == ([0, 1, 10], classes)
    with pytest.raises(DataError, match=r"10: a class that data\.classes lacks.*a number from 0 to 9"):
        open_dataset("folders", tmp_path, "train", image_size=8, classes=classes[:10])


def test_a_name_that_several_classes_have_is_refused(tmp_path: Path) -> None:
    """ImageNet has two cranes; by number, they are told apart."""
    _picture(tmp_path / "train/crane/0.png", 8, 8)
    with pytest.raises(DataError, match="crane: a name that several classes have"):
        open_dataset("folders", tmp_path, "train", classes=("crane", "cat", "crane"))
    (tmp_path / "train/crane").rename(tmp_path / "train/2")
    found = open_dataset("folders", tmp_path, "train", image_size=8, classes=("crane", "cat", "crane"))
    assert found.targets.tolist() == [2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n\ndog", "line 2: no class"),
        (b"", "line 1: no class"),
        (b"\xff\xfe", "expected UTF-8"),
        (None, "read"),
    ],
)
def test_a_file_of_classes_that_is_none_is_named(unsplit: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (unsplit / "labels.txt").write_bytes(content)
    with pytest.raises(UsageError, match=rf"labels\.txt: .*{message}"):
        open_dataset("folders", unsplit, "train", classes=str(unsplit / "labels.txt"))
    with pytest.raises(UsageError, match="cifar10 has its own classes"):
        open_dataset("cifar10", unsplit, "train", classes=("cat",))


def test_the_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    """EXIF orientation 6: the camera was turned, and a viewer turns the picture clockwise."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    ok, encoded = cv2.imencode(".jpg", pixels)
    assert ok
    tiff = (
        b"MM\x00\x2a\x00\x00\x00\x08"
        + b"\x00\x01"
        + b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
        + bytes(4)
    )
    exif = b"Exif\x00\x00" + tiff
    raw = encoded.tobytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "train/cat").mkdir(parents=True)
    (tmp_path / "train/cat/photo.jpg").write_bytes(raw[:2] + segment + raw[2:])
    [image] = open_dataset("folders", tmp_path, "train", image_size=16)[:].pixels
    assert image[:, :, 10:].float().mean() > 240
    assert image[:, :, :6].float().mean() < 15


def test_test_images_keep_the_labels_of_training(folders: Path) -> None:
    (folders / "imagenet/val/cat/0.png").unlink()
    (folders / "imagenet/val/cat").rmdir()
    dataset = open_dataset("imagenet", folders, "test", image_size=16)
    assert dataset.labels == ("cat", "dog")
    assert dataset.targets.tolist() == [1]


def test_the_first_test_images_of_folders_are_of_every_class(tmp_path: Path) -> None:
    """Always the same ones, and training's stay in order: a run shuffles those itself."""
    for split in ("train", "val"):
        for index in range(60):
            _picture(tmp_path / split / f"class-{index // 20}" / f"{index:02d}.png", 4, 4)
    train, test, again = (
        open_dataset("imagenet", tmp_path, split, image_size=4) for split in ("train", "test", "test")
    )
    assert set(test[:12].targets.tolist()) == {0, 1, 2}
    assert sorted(test.paths) == list(train.paths)
    assert all(
        path.startswith(f"class-{row}/") for path, row in zip(test.paths, test.targets.tolist(), strict=True)
    )
    assert again.paths == test.paths != train.paths


def test_a_test_class_unknown_to_training_is_named(folders: Path) -> None:
    _picture(folders / "imagenet/val/bee/0.png")
    with pytest.raises(DataError, match=r"val/bee: a class that .*train lacks"):
        open_dataset("imagenet", folders, "test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar10",
            r"no CIFAR-10 in .*: expected data_batch_1\.bin .*fetch it by 'edge-train data cifar10 --to",
        ),
        ("svhn", r"no SVHN in .*: expected svhn/train_32x32\.mat .*fetch it by 'edge-train data svhn --to"),
        ("gtsrb", r"no GTSRB in .*: expected Final_Training/Images .* or train/00 to train/42"),
        (
            "imagenet",
            r"no image folders in .*: expected imagenet/train/CLASS/\*\.jpg .*https://image-net\.org",
        ),
    ],
)
def test_an_absent_data_set_says_how_to_get_it(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(name, tmp_path / "absent", "train")


def test_impossible_arguments_name_the_choices(cifar10: Path) -> None:
    with pytest.raises(
        UsageError, match="data set 'mnist': expected one of cifar10, svhn, gtsrb, imagenet, folders"
    ):
        open_dataset("mnist", cifar10, "train")
    with pytest.raises(UsageError, match="split 'val': expected one of train, test"):
        open_dataset("cifar10", cifar10, "val")
    with pytest.raises(UsageError, match="image_size: the images of cifar10 have 32 pixels a side, got 64"):
        open_dataset("cifar10", cifar10, "train", image_size=64)
    with pytest.raises(UsageError, match="image_size: expected at least 1 pixel, got 0"):
        open_dataset("imagenet", cifar10, "train", image_size=0)


def test_a_config_may_name_every_data_set() -> None:
    assert typing.get_args(typing.get_type_hints(Data)["name"]) == names()


def _numbered(count: int) -> Images:
    """Images that tell which they are by their target."""
    return Images(torch.zeros(count, 3, 2, 2, dtype=torch.uint8), torch.arange(count), ("a",))


@given(st.integers(2, 300), st.data())
def test_validation_is_a_fixed_part_of_the_training_images(count: int, data: st.DataObject) -> None:
    n_validation = data.draw(st.integers(1, count - 1))
    training, validation = split_validation(_numbered(count), n_validation)
    assert len(validation) == n_validation
    assert sorted(torch.cat([training.targets, validation.targets]).tolist()) == list(range(count))
    again = split_validation(_numbered(count), n_validation)
    assert torch.equal(again[0].targets, training.targets)
    assert torch.equal(again[1].targets, validation.targets)


def test_the_validation_split_never_changes() -> None:
    """These rows validated the models that ship; other ones would let training see them."""
    assert split_validation(_numbered(50_000), 2000)[1].targets[:5].tolist() == [
        11882,
        25881,
        36550,
        38159,
        375,
    ]


def test_folders_are_split_without_being_decoded(folders: Path) -> None:
    (folders / "imagenet/train/cat/0.png").write_bytes(b"")
    dataset = open_dataset("imagenet", folders, "train", image_size=16)
    training, validation = split_validation(dataset, 2)
    assert isinstance(training, ImageFolders)
    assert sorted(training.paths + validation.paths) == sorted(dataset.paths)
    order = split_validation(_numbered(7), 2)[1].targets
    assert validation.paths == tuple(dataset.paths[row] for row in order.tolist())


def test_a_validation_part_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"data\.validation: expected fewer than the 10 training images, got 10"
    ):
        split_validation(_numbered(10), 10)


@given(
    count=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_augmentation_equals_padding_cropping_and_mirroring_each_image(
    count: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    pixels = torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=keyed_generator(seed))
    found = augment(pixels, crop_padding=padding, flip=flip, generator=keyed_generator(seed))
    generator = keyed_generator(seed)
    tops, lefts = torch.randint(2 * padding + 1, (2, count), generator=generator).tolist()
    mirrored = torch.rand(count, generator=generator) < 0.5
    for index, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        padded = np.pad(pixels[index].numpy(), ((0, 0), (padding, padding), (padding, padding)))
        crop = padded[:, top : top + height, left : left + width]
        if flip and mirrored[index]:
            crop = crop[:, :, ::-1]
        assert np.array_equal(found[index].numpy(), crop.astype(np.float32) / 255)


def test_augmentation_multiplies_each_image_and_its_distance_from_its_mean() -> None:
    pixels = torch.randint(60, 180, (50, 3, 8, 8), dtype=torch.uint8, generator=keyed_generator(0))
    plain = pixels.float() / 255
    brighter = augment(pixels, crop_padding=0, flip=False, brightness=0.3, generator=keyed_generator(1))
    factors = (brighter / plain).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-5), "one factor an image"
    assert 0.7 <= factors.min() < 0.75
    assert 1.25 < factors.max() <= 1.3
    harder = augment(pixels, crop_padding=0, flip=False, contrast=0.3, generator=keyed_generator(1))
    means = plain.mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(harder, means + factors[:, :1, None, None] * (plain - means), atol=1e-5)


def test_augmentation_stays_between_black_and_white() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).expand(20, 3, 4, 2).contiguous()
    found = augment(
        pixels, crop_padding=1, flip=True, brightness=0.9, contrast=0.9, generator=keyed_generator(2)
    )
    assert (found.min(), found.max()) == (0, 1)


def test_keyed_generators_repeat_by_key_and_differ_between_keys() -> None:
    def first(*key: int | str) -> int:
        return int(torch.randint(2**31, (1,), generator=keyed_generator(*key)))

    keys = [(0, "step", 1, 2), (0, "step", 12), (1, "step", 1, 2), (0, "order", 1, 2), ("0", "step", 1, 2)]
    assert [first(*key) for key in keys] == [first(*key) for key in keys]
    assert len({first(*key) for key in keys}) == len(keys)


def test_few_pictures_are_decoded_once_and_subsets_share_them(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    decode = folders_module.read_picture
    monkeypatch.setattr(folders_module, "read_picture", lambda path: read.append(path.name) or decode(path))
    dataset = open_dataset("imagenet", folders, "train", image_size=16)
    first = dataset[:].pixels
    count = len(read)
    assert count == len(dataset)
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(dataset[:].pixels, first)
    assert torch.equal(dataset.subset(torch.tensor([3, 1, 0]))[:].pixels, first[[3, 1, 0]])
    assert torch.equal(next(dataset.stream([rows])).pixels, first[rows])
    assert len(read) == count


def test_pictures_that_would_fill_the_memory_are_decoded_each_time(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = open_dataset("imagenet", folders, "train", image_size=16)
    assert isinstance(held, ImageFolders)
    assert held.in_memory is not None
    monkeypatch.setattr(folders_module, "KEPT_BYTES", 3 * 16 * 16)
    dataset = open_dataset("imagenet", folders, "train", image_size=16)
    assert isinstance(dataset, ImageFolders)
    assert dataset.in_memory is None
    assert torch.equal(dataset[:].pixels, held[:].pixels)


def test_what_was_trained_is_opened_with_its_classes_and_split(unsplit: Path) -> None:
    labels = ("zebra", "train", "ant")
    provenance = {"config": {"data": {"name": "folders", "train_share": 0.5}}}
    for share, known in ((0.5, provenance), (0.8, {"config": {"data": {"name": "folders"}}})):
        expected = open_dataset("folders", unsplit, "test", image_size=8, classes=labels, train_share=share)
        found = open_as_trained(known, unsplit, "test", image_size=8, labels=labels)
        assert isinstance(found, ImageFolders)
        assert isinstance(expected, ImageFolders)
        assert (found.paths, found.labels) == (expected.paths, labels)
    with pytest.raises(UsageError, match="--dataset: what this was trained on isn't known"):
        open_as_trained({}, unsplit, "test", image_size=8, labels=labels)
