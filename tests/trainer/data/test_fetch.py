"""Fetching resumes, checks, and puts data in place whole or not at all; a server here is the network."""

from __future__ import annotations

import gzip
import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdk.errors import UsageError
from trainer.cli import main
from trainer.data import DataError, check
from trainer.data import catalogue as catalogue_module
from trainer.data.download.archive import unpack
from trainer.data.download.fetch import Published, fetch_file

savemat = pytest.importorskip(
    "scipy.io", reason="scipy writes the tests' SVHN; pip install 'edge-purify[dev]'"
).savemat

FOLDER = "cifar-10-batches-bin"
CONTENT = np.random.default_rng(0).bytes(100_000)
FILE = Published("train.mat", hashlib.md5(CONTENT).hexdigest(), "svhn/train.mat")
# The folder is the same for all examples of a property, which remove what they write there
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Mirror:
    """A server of ``files``; ``asked`` holds the Range header of every request, None where there was none."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)
    cut_after: int | None = None  # bytes that a connection brings before it is cut
    with_ranges: bool = True
    with_length: bool = True
    shift: int = 0  # by how many bytes a range's start is answered wrongly


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    served = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, served)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        served.address = f"http://127.0.0.1:{server.server_port}/data"
        yield served
        server.shutdown()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, mirror: Mirror) -> None:
    asked = request.headers["Range"]
    mirror.asked.append(asked)
    content = mirror.files.get(request.path.removeprefix("/data/"))
    if content is None:
        request.send_error(404)
        return
    start = (
        int(asked.removeprefix("bytes=").removesuffix("-")) + mirror.shift
        if asked and mirror.with_ranges
        else 0
    )
    if start >= len(content):
        request.send_error(416)
        return
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if mirror.with_length:
        request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    end = len(content) if mirror.cut_after is None else start + mirror.cut_after
    request.wfile.write(content[start:end])


def _fetch(mirror: Mirror, to: Path, file: Published = FILE) -> bytes:
    """Fetch ``file``; returns what came of it."""
    fetch_file(file, mirror.address, to, on_progress=lambda what, done, total: None)
    return (to / file.gives).read_bytes()


def test_a_file_is_fetched_into_place_with_progress(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = {"train.mat": CONTENT}
    seen: list[tuple[str, int, int | None]] = []
    fetch_file(FILE, mirror.address + "/", tmp_path / "new", on_progress=lambda *step: seen.append(step))
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == ["train.mat"]
    assert (tmp_path / "new/svhn/train.mat").read_bytes() == CONTENT
    assert seen[-1] == ("train.mat", 100_000, 100_000)


def test_what_is_there_is_not_fetched(mirror: Mirror, tmp_path: Path) -> None:
    file = replace(FILE, equals=("train.mat",))
    for path in ("svhn/train.mat", "train.mat"):
        folder = tmp_path / path.replace("/", "-")
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(b"mine")
        fetch_file(file, mirror.address, folder, on_progress=lambda what, done, total: None)
        assert (folder / path).read_bytes() == b"mine"
    assert mirror.asked == []


def test_connections_that_are_cut_are_resumed_where_they_ended(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files, mirror.cut_after = {"train.mat": CONTENT}, 40_000
    assert _fetch(mirror, tmp_path) == CONTENT
    assert mirror.asked == [None, "bytes=40000-", "bytes=80000-"]


@pytest.mark.parametrize("n_bytes", [1, 99_999, 100_000])
def test_a_killed_download_is_resumed_by_the_next_run(mirror: Mirror, tmp_path: Path, n_bytes: int) -> None:
    mirror.files = {"train.mat": CONTENT}
    (tmp_path / "train.mat.part").write_bytes(CONTENT[:n_bytes])
    assert _fetch(mirror, tmp_path) == CONTENT
    assert mirror.asked == [f"bytes={n_bytes}-"]


def test_a_server_without_ranges_sends_all_of_it_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files, mirror.with_ranges = {"train.mat": CONTENT}, False
    (tmp_path / "train.mat.part").write_bytes(CONTENT[:500])
    assert _fetch(mirror, tmp_path) == CONTENT


def test_a_server_that_tells_no_length_is_held_to_the_checksum(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files, mirror.with_length = {"train.mat": CONTENT}, False
    assert _fetch(mirror, tmp_path) == CONTENT
    mirror.cut_after = 500
    with pytest.raises(DataError, match="expected the published md5"):
        _fetch(mirror, tmp_path / "cut")


def test_a_connection_that_brings_nothing_ends_the_run_and_keeps_the_part(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files, mirror.cut_after = {"train.mat": CONTENT}, 0
    (tmp_path / "train.mat.part").write_bytes(CONTENT[:700])
    with pytest.raises(
        DataError, match="the connection ended after 700 bytes; run again to go on from there"
    ):
        _fetch(mirror, tmp_path)
    mirror.cut_after = None
    assert _fetch(mirror, tmp_path) == CONTENT


def test_a_range_answered_wrongly_is_not_appended(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files, mirror.shift = {"train.mat": CONTENT}, 5
    (tmp_path / "train.mat.part").write_bytes(CONTENT[:500])
    with pytest.raises(
        DataError, match="expected the bytes from 500 on, the server sent 'bytes 505-99999/100000'"
    ):
        _fetch(mirror, tmp_path)
    assert (tmp_path / "train.mat.part").read_bytes() == CONTENT[:500]


@pytest.mark.parametrize("part", [b"", b"another version", CONTENT + b"more"])
def test_a_wrong_checksum_is_refused_and_the_next_run_starts_anew(
    mirror: Mirror, tmp_path: Path, part: bytes
) -> None:
    mirror.files = {"train.mat": CONTENT if part else b"forged"}
    (tmp_path / "train.mat.part").write_bytes(part)
    with pytest.raises(
        DataError, match=f"expected the published md5 {FILE.md5}, got .*; it has been removed"
    ):
        _fetch(mirror, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    mirror.files = {"train.mat": CONTENT}
    assert _fetch(mirror, tmp_path) == CONTENT


def test_a_server_that_refuses_is_quoted(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"/data/train\.mat: the server answers 404 Not Found; give a mirror by --url"
    ):
        _fetch(mirror, tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid", "127.0.0.1:port"])
def test_no_network_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DataError, match=r"can't be reached: .*put train\.mat from elsewhere into") as caught:
        _fetch(Mirror("http://" + host.format(port=port)), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://host", "file:///etc", "host/path", ""])
def test_an_address_that_is_not_http_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="expected an address that begins with http:// or https://"):
        _fetch(Mirror(url), tmp_path)


def test_a_file_brought_by_other_means_needs_no_network(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "train.mat").write_bytes(CONTENT)
    assert _fetch(mirror, tmp_path) == CONTENT
    assert mirror.asked == []


def test_a_wrong_file_brought_by_other_means_is_left_alone(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "train.mat").write_bytes(b"wrong")
    with pytest.raises(
        DataError, match=r"train\.mat: expected the published md5 .*; remove it and run again"
    ):
        _fetch(mirror, tmp_path)
    assert (tmp_path / "train.mat").read_bytes() == b"wrong"


def test_a_folder_that_cannot_be_made_is_named(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/data: can't be written or read: Not a directory"):
        _fetch(mirror, tmp_path / "file/data")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here to stand for a full disk")
def test_a_full_disk_is_one_line(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = {"train.mat": CONTENT}
    (tmp_path / "train.mat.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="can't be written or read: No space left on device"):
        _fetch(mirror, tmp_path)


def _archive(members: dict[str, bytes]) -> bytes:
    """A .tar.gz with these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            _add(tar, name, content=content)
    return stream.getvalue()


def _add(
    tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b""
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(content)
    tar.addfile(member, io.BytesIO(content))


ARCHIVE = _archive({f"{FOLDER}/a.bin": CONTENT[:5000], f"{FOLDER}/deep/b.bin": b"b"})


def _unpacked(archive: bytes, folder: Path) -> dict[str, bytes]:
    """Unpack in ``folder``; the files that are in it then."""
    (folder / "set.tar.gz").write_bytes(archive)
    unpack(folder / "set.tar.gz", folder / FOLDER)
    (folder / "set.tar.gz").unlink()
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_archive_is_unpacked_into_place(tmp_path: Path) -> None:
    assert _unpacked(ARCHIVE, tmp_path) == {f"{FOLDER}/a.bin": CONTENT[:5000], f"{FOLDER}/deep/b.bin": b"b"}


def test_what_a_killed_unpacking_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f".{FOLDER}.part" / FOLDER).mkdir(parents=True)
    (tmp_path / f".{FOLDER}.part" / FOLDER / "half.bin").touch()
    assert sorted(_unpacked(ARCHIVE, tmp_path)) == [f"{FOLDER}/a.bin", f"{FOLDER}/deep/b.bin"]


@pytest.mark.parametrize(
    "name", ["../out", f"{FOLDER}/../../out", "/tmp/out", "..\\out", "C:\\out", "\\\\host\\out"]
)
def test_a_member_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep/data"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match="leads outside of it; don't use this archive"):
        _unpacked(_archive({f"{FOLDER}/a.bin": b"a", name: b"out"}), folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "data", "set.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        _add(tar, f"{FOLDER}/link", kind, link="/etc")
        _add(tar, f"{FOLDER}/link/passwd", content=b"mine")
    with pytest.raises(DataError, match=f"its member '{FOLDER}/link' is neither file nor folder"):
        _unpacked(stream.getvalue(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"expected a folder {FOLDER} in it, found none"):
        _unpacked(_archive({"other/a.bin": b"a"}), tmp_path)


@same_folder
@given(st.integers(0, len(ARCHIVE) - 1))
def test_an_archive_cut_short_anywhere_leaves_nothing(tmp_path: Path, n_bytes: int) -> None:
    with pytest.raises(DataError, match=r"set\.tar\.gz: .*get it again") as caught:
        _unpacked(ARCHIVE[:n_bytes], tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


@same_folder
@given(st.data())
def test_an_archive_of_a_damaged_tar_gives_one_line_or_no_other_files(
    tmp_path: Path, data: st.DataObject
) -> None:
    tar = bytearray(gzip.decompress(ARCHIVE))
    for position in data.draw(st.lists(st.integers(0, 511), min_size=1, max_size=3)):
        tar[position] = data.draw(st.integers(0, 255))
    folder = tmp_path / "data"
    folder.mkdir()
    try:
        files = _unpacked(gzip.compress(tar), folder)
    except (DataError, OSError) as error:
        files = {}
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right
    finally:
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        _remove(folder)
    assert all(name.startswith(f"{FOLDER}/") for name in files)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _cifar10(images_per_batch: int = 2) -> bytes:
    """CIFAR-10's archive with few images."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return _archive({f"{FOLDER}/{name}.bin": bytes(3073 * images_per_batch) for name in names})


@pytest.fixture
def small_cifar10(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror of a CIFAR-10 that was published with 10 training and 2 test images."""
    mirror.files = {"cifar-10-binary.tar.gz": _cifar10()}
    entry = catalogue_module.IN_MEMORY["cifar10"]
    md5 = hashlib.md5(mirror.files["cifar-10-binary.tar.gz"]).hexdigest()
    small = replace(entry, files=(replace(entry.files[0], md5=md5),), images={"train": 10, "test": 2})
    monkeypatch.setitem(catalogue_module.IN_MEMORY, "cifar10", small)
    return mirror


def _command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def test_the_command_fetches_once_and_checks_every_time(small_cifar10: Mirror, tmp_path: Path) -> None:
    small_cifar10.cut_after = 200
    for _ in range(2):
        result = _command("cifar10", "--to", tmp_path, "--url", small_cifar10.address)
        assert (result.exit_code, result.stderr) == (0, "")
        assert (
            result.stdout
            == f"cifar10 in {tmp_path}: 10 train images and 2 test images of 10 classes, all readable\n"
        )
        n_requests = len(small_cifar10.asked)
    assert n_requests == -(-len(small_cifar10.files["cifar-10-binary.tar.gz"]) // 200)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


def test_the_command_fetches_every_file_of_svhn(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalogue_module.IN_MEMORY["svhn"]
    files = []
    for count, file in enumerate(entry.files, start=1):
        stream = io.BytesIO()
        savemat(stream, {"X": np.zeros((32, 32, 3, count), np.uint8), "y": np.full((count, 1), 10)})
        mirror.files[file.name] = stream.getvalue()
        files.append(replace(file, md5=hashlib.md5(stream.getvalue()).hexdigest()))
    small = replace(entry, files=tuple(files), images={"train": 1, "test": 2})
    monkeypatch.setitem(catalogue_module.IN_MEMORY, "svhn", small)
    result = _command("svhn", "--to", tmp_path, "--url", mirror.address)
    assert (
        result.stdout == f"svhn in {tmp_path}: 1 train images and 2 test images of 10 classes, all readable\n"
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["svhn", "test_32x32.mat", "train_32x32.mat"]


def _lose_a_record(folder: Path) -> None:
    (folder / FOLDER / "data_batch_5.bin").write_bytes(bytes(3073))


def _cut_a_record(folder: Path) -> None:
    (folder / FOLDER / "data_batch_5.bin").write_bytes(bytes(3000))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            _lose_a_record,
            "expected 10 train images and 2 test images, got 9 train images and 2 test images; remove it",
        ),
        (_cut_a_record, "data_batch_5.bin: expected records of 3073 bytes"),
    ],
)
def test_the_command_finds_damage(
    small_cifar10: Mirror, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    _command("cifar10", "--to", tmp_path, "--url", small_cifar10.address)
    damage(tmp_path)
    result = _command("cifar10", "--to", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("edge-train: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_truncated_archive_is_one_line(
    small_cifar10: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small_cifar10.files["cifar-10-binary.tar.gz"]
    entry = catalogue_module.IN_MEMORY["cifar10"]
    md5 = hashlib.md5(whole[:-9]).hexdigest()
    monkeypatch.setitem(
        catalogue_module.IN_MEMORY, "cifar10", replace(entry, files=(replace(entry.files[0], md5=md5),))
    )
    small_cifar10.files["cifar-10-binary.tar.gz"] = whole[:-9]
    result = _command("cifar10", "--to", tmp_path, "--url", small_cifar10.address)
    assert result.exit_code == 1
    assert "cifar-10-binary.tar.gz: cut short or damaged" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / FOLDER).exists()


def test_the_command_checks_image_folders_and_fetches_none(tmp_path: Path) -> None:
    result = _command("imagenet", "--to", tmp_path, "--url", "http://host")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    result = _command("imagenet", "--to", tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "expected imagenet/train/CLASS/*.jpg there" in result.stderr


def test_an_unknown_data_set_names_the_choices(tmp_path: Path) -> None:
    result = _command("mnist", "--to", tmp_path)
    assert result.exit_code == 2
    assert "'mnist' is not one of 'cifar10', 'svhn', 'gtsrb', 'imagenet', 'folders'" in result.stderr


def test_the_command_offers_what_the_catalogue_holds() -> None:
    [choice] = [parameter.type for parameter in main.commands["data"].params if parameter.name == "name"]
    assert tuple(choice.choices) == catalogue_module.names()


def test_a_check_reports_its_progress(small_cifar10: Mirror, tmp_path: Path) -> None:
    _command("cifar10", "--to", tmp_path, "--url", small_cifar10.address)
    seen: list[tuple[str, int, int | None]] = []
    check("cifar10", tmp_path, on_progress=lambda *step: seen.append(step))
    assert seen == [("train images", 10, 10), ("test images", 2, 2)]
