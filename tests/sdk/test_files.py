"""Atomic writes: the old file or the new one, never another user's, whatever the name and the links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdk.files import (
    PREFIX,
    STALE_S,
    AtomicFile,
    NotAFile,
    remove_stale_parts,
    replacing,
    require_writable,
    write_atomically,
)

STRANGER = 12345  # a user's id


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_content_appears_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with replacing(path) as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    write_atomically(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert names(tmp_path) == [path.name]


def test_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    def stop_halfway() -> None:
        with replacing(tmp_path / "a") as stream:
            stream.write(b"new")
            raise KeyboardInterrupt

    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_published_file_can_be_followed_while_it_grows(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "lines")
    stream = file.create(buffering=0)
    stream.write(b"1\n")
    assert not (tmp_path / "lines").exists()
    file.publish()
    stream.write(b"2\n")
    assert (tmp_path / "lines").read_bytes() == b"1\n2\n"
    file.discard()
    assert (tmp_path / "lines").read_bytes() == b"1\n2\n", "what has its name stays"


@pytest.mark.parametrize("length", [1, 200, 250, 255])
@pytest.mark.parametrize("suffix", ["", ".jsonl", "." + "x" * 200])
def test_any_name_that_the_folder_can_hold(length: int, suffix: str, tmp_path: Path) -> None:
    name = ("n" * length + suffix)[-length:] if suffix else "n" * length
    write_atomically(tmp_path / name, b"1")
    assert (tmp_path / name).read_bytes() == b"1"


@pytest.mark.parametrize(
    ("name", "message"),
    [("n" * 256, "File name too long"), ("a\0b", "can't hold such characters"), ("no/file", "No such file")],
)
def test_name_that_no_file_can_have_is_known_at_the_start(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=message):
        AtomicFile(tmp_path / name).create()
    assert names(tmp_path) == []


def test_link_s_target_is_written_and_a_loop_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("folder/file")
    write_atomically(tmp_path / "one", b"1")
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"1"
    assert names(tmp_path / "folder") == ["file"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        write_atomically(tmp_path / "loop", b"1")


def test_folder_pipe_and_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-null").symlink_to("/dev/null")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a device or a pipe"),
        (tmp_path / "to-null", "is a device or a pipe"),
    ):
        with pytest.raises(NotAFile, match=message):
            require_writable(path)
    assert (tmp_path / "pipe").is_fifo()


def test_stranger_s_link_in_a_shared_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's link")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (shared / "out.json").symlink_to(victim)
    os.chown(shared / "out.json", STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(NotAFile, match="a link that another user made"):
        write_atomically(shared / "out.json", b"1")
    assert victim.read_text() == "precious"


def test_other_user_s_file_in_a_shared_folder_is_known_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's sticky bit would refuse the renaming, after all the work."""
    (tmp_path / "out.json").write_text("precious")
    tmp_path.chmod(0o1777)
    monkeypatch.setattr("sdk.files.os.geteuid", lambda: STRANGER)
    with pytest.raises(NotAFile, match="belongs to another user"):
        AtomicFile(tmp_path / "out.json").create()
    assert names(tmp_path) == ["out.json"]
    AtomicFile(tmp_path / "new.json").create()


def test_temporary_name_can_not_be_guessed_nor_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = set()
    for _ in range(20):
        file = AtomicFile(tmp_path / "a.json")
        file.create()
        parts.add(file.part.name)
        file.discard()
    assert len(parts) == 20
    tokens = iter(["known", "fresh"])
    monkeypatch.setattr("sdk.files.secrets.token_hex", lambda n_bytes: next(tokens))
    (tmp_path / "victim").write_text("precious")
    (tmp_path / f"{PREFIX}known.json").symlink_to("victim")
    write_atomically(tmp_path / "a.json", b"1")
    assert (tmp_path / "victim").read_text() == "precious"


FILL_THE_DISK = """
import resource, signal, sys
from sdk.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(sys.argv[1], bytes(100_000))
except OSError as error:
    print(error.strerror)
"""


def test_full_disk_is_an_error_that_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "a")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "File too large\n"
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_parts_of_a_killed_process_are_removed_later(tmp_path: Path) -> None:
    for name, age_s in (("old", STALE_S + 60), ("new", 0.0)):
        part = tmp_path / f"{PREFIX}{name}.json"
        part.touch()
        os.utime(part, (part.stat().st_atime, part.stat().st_mtime - age_s))
    (tmp_path / "mine.json").touch()
    remove_stale_parts(tmp_path)
    assert names(tmp_path) == [f"{PREFIX}new.json", "mine.json"]
