"""What else may stand in a stranger's folder in place of a file: nothing blocks or is read without end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from sdk.bundle import MANIFEST, SIGNATURE, Bundle, File, write_file, write_manifest
from sdk.bundle.regular import read_regular
from sdk.cli import main
from sdk.errors import BundleError
from sdk.files import NotAFile
from tests.sdk.keys import Keys, make_keys

OTHERS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "itself": lambda path: path.symlink_to(path),
    "enormous": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "keys")


@pytest.mark.parametrize("other", OTHERS)
def test_a_signature_that_is_no_file_is_one_line(bundle_copy: Path, keys: Keys, other: str) -> None:
    OTHERS[other](bundle_copy / SIGNATURE)
    with pytest.raises(BundleError, match=rf"{SIGNATURE} can't be read") as caught:
        Bundle.open(bundle_copy, public_key=keys.public)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["engines/a\0.plan", "../outside.plan", "/etc/hostname", "engines/" + "a" * 5000]
)
def test_listed_engines_of_impossible_names_are_changed_ones(
    bundle_copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle_copy.parent / "outside.plan").write_bytes(b"not the bundle's")
    bundle = Bundle.open(bundle_copy)
    write_manifest(bundle_copy, msgspec.structs.replace(bundle.manifest, plans=(File(name, "0" * 64),)))
    (found,) = [entry for entry in Bundle.open(bundle_copy).coverage() if entry.file == name]
    assert (found.coverage, found.size_bytes) in (("changed", None), ("missing", None))
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(bundle_copy)])
    assert ended.value.code == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_that_grows_while_it_is_read_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"x")
    stopped = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as stream:
            while not stopped.is_set():
                stream.write(bytes(1 << 20))

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        with suppress(ValueError):
            while True:  # the reader is faster than the writer at times
                assert len(read_regular(path, 4 << 20)) <= 4 << 20
    finally:
        stopped.set()
        thread.join()


def test_nothing_is_written_through_a_link_out_of_the_folder(bundle_copy: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("mine")
    (bundle_copy / "card").symlink_to(own)
    made = write_file(bundle_copy, "card", b"text")
    assert (own.read_text(), (bundle_copy / "card").read_bytes()) == ("mine", b"text")
    assert not (bundle_copy / "card").is_symlink()
    assert Bundle.open(bundle_copy).manifest.labels != made
    (bundle_copy / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(NotAFile, match="leads outside the folder"):
        write_file(bundle_copy, "elsewhere/own.txt", b"text")
    with pytest.raises(NotAFile, match="leads outside the folder"):
        write_file(bundle_copy, "../own.txt", b"text")
    assert own.read_text() == "mine"


def test_the_manifest_is_written_in_the_folder_and_nowhere_else(bundle_copy: Path, tmp_path: Path) -> None:
    bundle, own = Bundle.open(bundle_copy), tmp_path / "own.json"
    (bundle_copy / MANIFEST).rename(own)
    (bundle_copy / MANIFEST).symlink_to(own)
    before = own.read_bytes()
    write_manifest(bundle_copy, msgspec.structs.replace(bundle.manifest, name="another"))
    assert own.read_bytes() == before
    assert Bundle.open(bundle_copy).manifest.name == "another"
