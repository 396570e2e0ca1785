"""Sources that public bug reports tell of: each is sound, or refused by name, and none is silently wrong."""

from __future__ import annotations

import os
import shutil
import threading
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk.errors import SourceError
from sdk.sources import open_source, open_sources
from sdk.sources.source import Frame
from tests.sdk.conftest import DEADLINE_S, MjpegServer, write_video
from tests.sdk.sources.helpers import copy, read_all, write_h264, write_song

# --- damage is what the decoder and the container say, not what a count or a size suggests


@pytest.mark.usefixtures("reader")
def test_edit_list_that_hides_most_of_the_frames(tmp_path: Path) -> None:
    path = copy(write_h264(tmp_path / "t.mp4"), tmp_path / "trim.mp4", without_s=1.4)
    frames, error = read_all(open_source(path))
    assert (len(frames), error) == (15, None)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".ts"])
@pytest.mark.parametrize("tail", [b"TAGdashcam trailer 0123", b"\0" * 40, b"\xff" * 12, b"x"])
def test_bytes_behind_the_video_are_no_damage(tail: bytes, suffix: str, tmp_path: Path) -> None:
    path = write_h264(tmp_path / f"tail{suffix}", 30)
    with path.open("ab") as stream:
        stream.write(tail)
    frames, error = read_all(open_source(path))
    assert (len(frames), error) == (30, None)


def test_dropped_frames_of_an_avi_are_no_damage(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 30)
    data = path.read_bytes()
    index = data.rindex(b"idx1")
    entries = [index + 8 + 16 * i for i in range(30)]
    patched = bytearray(data)
    for at in entries[10:20]:  # a third of them: their entries say 'no bytes', as recorders write
        patched[at + 12 : at + 16] = bytes(4)
    path.write_bytes(patched)
    frames, error = read_all(open_source(path))
    assert error is None
    assert len(frames) >= 20


def test_stream_that_begins_between_key_frames_is_no_damage(tmp_path: Path) -> None:
    whole = write_h264(tmp_path / "t.mp4", 60, gop=20)
    path = copy(whole, tmp_path / "late.ts", drop=tuple(range(10)))
    frames, error = read_all(open_source(path))
    assert error is None
    assert len(frames) >= 40


def test_one_damaged_frame_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "clip.avi", 40)
    data = bytearray(path.read_bytes())
    at = [i for i in range(len(data) - 4) if data[i : i + 4] == b"00dc"][20] + 8
    data[at : at + 400] = bytes(400)
    path.write_bytes(data)
    frames, error = read_all(open_source(path))
    assert (len(frames), error) == (39, None)
    assert "39 of 40 frames can be read, the others are damaged" in caplog.text


@pytest.mark.usefixtures("reader")
def test_odd_rate_keeps_its_times(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "odd.mp4", 20, fps=Fraction(105611, 500))
    frames, error = read_all(open_source(path))
    assert error is None
    assert [frame.time_s for frame in frames] == pytest.approx(
        [i * 500 / 105611 for i in range(20)], abs=1e-3
    )


# --- what FFmpeg opens is not always a video


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"meeting at ten\n" * 50),
        ("page.jpg", b"<!doctype html><title>404</title>" * 20),
        ("log.mp4", b"\x1b[31merror\x1b[0m in line 12\n" * 30),
        ("art.ans", b"\x1b[1;31m ### \x1b[0m\r\n" * 40),
        ("table.csv", "Zähler;Größe\n1;2\n".encode() * 30),
        ("utf16.txt", "meeting at ten\n".encode("utf-16") * 20),
        ("empty-lines.txt", b"\n\n# nothing but a comment\n"),
    ],
)
def test_text_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        SourceError, match=rf"{name}: (a text file, neither a video nor a picture|a list with|a web page)"
    ):
        open_source(tmp_path / name)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF picture"),
        ("photo.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF picture"),
        ("photo.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "HEIF picture"),
        ("book.pdf", b"%PDF-1.7\n\x93\x8c\x8b\x9e", "a PDF document"),
        ("photo.psd", b"8BPS\0\1\0\0", "a Photoshop picture"),
        ("photos.zip", b"PK\x03\x04\x14\0\0\0", "a ZIP archive"),
        ("song.mp3", b"ID3\x04\0\0\0\0\x1f\x76APIC", "a sound file"),
        ("song.m4a", b"\0\0\0\x20ftypM4A \0\0\2\0", "a sound file"),
        ("song.wav", b"RIFF\x24\0\0\0WAVEfmt ", "a sound file"),
    ],
)
def test_what_is_not_served_is_refused_by_name(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content + bytes(200))
    with pytest.raises(SourceError, match=rf"{name}: {what}|{name}: a {what}"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("has_cover", [False, True])
def test_song_is_no_video_whatever_its_cover_shows(has_cover: bool, tmp_path: Path) -> None:
    cover = cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))[1].tobytes() if has_cover else None
    path = write_song(tmp_path / "song.mp4", cover)
    what = "only sound and a cover picture" if has_cover else "only sound"
    with pytest.raises(SourceError, match=f"song.mp4: no video in it, {what}$"):
        open_source(path)


def test_single_picture_behind_a_url_is_refused(mjpeg_server: MjpegServer) -> None:
    mjpeg_server.files["snapshot.jpg"] = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    with pytest.raises(SourceError, match=r"a single picture \(jpeg\), not a video; save it"):
        open_source(mjpeg_server.url("snapshot.jpg"))


@pytest.mark.usefixtures("reader")
def test_raw_mjpeg_is_a_video(tmp_path: Path) -> None:
    jpegs = [cv2.imencode(".jpg", np.full((48, 64, 3), grey, np.uint8))[1].tobytes() for grey in range(9)]
    (tmp_path / "raw.mjpeg").write_bytes(b"".join(jpegs))
    frames, error = read_all(open_source(tmp_path / "raw.mjpeg"))
    assert (len(frames), error) == (9, None)


def test_kind_is_told_by_content(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 5).rename(tmp_path / "clip.jpg")
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 9, 3), np.uint8))
    picture = (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    assert len(read_all(open_source(clip))[0]) == 5
    (frame,) = open_source(picture)
    assert frame.image.shape == (8, 9, 3)


# --- lists


def write_pictures(folder: Path, names: list[str]) -> list[Path]:
    folder.mkdir(exist_ok=True, parents=True)
    for i, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), np.full((20, 30, 3), i, np.uint8))
    return [folder / name for name in names]


@pytest.mark.parametrize("relative", [False, True])
def test_list_of_pictures_is_the_pictures(relative: bool, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "in", [f"{i}.png" for i in range(12)])
    shown = [path.relative_to(tmp_path) if relative else path for path in reversed(paths)]
    (tmp_path / "list.txt").write_text("# mine\n\n" + "".join(f"{path}\n" for path in shown))
    with open_source(tmp_path / "list.txt") as source:
        frames = list(source)
    assert source.total == 12
    assert [frame.image[0, 0, 0] for frame in frames] == list(range(11, -1, -1))


def test_list_of_videos_is_several_sources(tmp_path: Path) -> None:
    for name, n_frames in (("a.avi", 3), ("b.avi", 4)):
        write_video(tmp_path / name, n_frames)
    (tmp_path / "list.txt").write_text("a.avi\r\nb.avi\r\n")
    sources = open_sources(tmp_path / "list.txt")
    assert [len(read_all(source)[0]) for source in sources] == [3, 4]
    with pytest.raises(SourceError, match=r"list.txt: a list of 2 sources; open them by open_sources"):
        open_source(tmp_path / "list.txt")


def test_list_whose_lines_are_not_all_sources(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 3)
    (tmp_path / "list.txt").write_text("a.avi\nrtsp//admin:hunter2@host/1\n")
    for spec in (str(tmp_path / "list.txt"), f"@{tmp_path / 'list.txt'}"):
        with pytest.raises(SourceError, match=r"list.txt: (a text file|line 2 is no source)") as caught:
            open_sources(spec)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(SourceError, match=r"absent.txt: can't be read: No such file"):
        open_source(f"@{tmp_path / 'absent.txt'}")


def test_url_from_a_file_or_a_variable(
    tmp_path: Path, mjpeg_server: MjpegServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mjpeg_server.url(user="admin:hunter2@")
    (tmp_path / "camera").write_text(url + "\n")
    monkeypatch.setenv("FRONT_CAMERA", url)
    for spec in (f"@{tmp_path / 'camera'}", "env:FRONT_CAMERA"):
        with open_source(spec) as source:
            assert next(iter(source)).source == "http://127.0.0.1"
    monkeypatch.delenv("FRONT_CAMERA")
    with pytest.raises(
        SourceError, match=r"env:FRONT_CAMERA: this environment variable is not set, or empty"
    ):
        open_source("env:FRONT_CAMERA")


# --- nothing is left out unsaid


def test_glob_through_a_link_to_its_own_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path / "l" / "s", ["a.png"])
    (tmp_path / "l" / "s" / "up").symlink_to("..")
    with open_source(f"{tmp_path}/l/**/*.png") as source:
        assert source.total == 1
        assert len(list(source)) == 1
    assert "names lead to files that were found already, through links, and are left out" in caplog.text


def test_links_to_pictures_are_pictures(tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path / "in", ["a.png"])
    (tmp_path / "in" / "b.png").symlink_to(path)
    assert len(list(open_source(f"{tmp_path}/in/*.png"))) == 2


def test_folder_says_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path / "in", ["a.png", "b.png"])
    for name in ("c.mp4", "d.mp4", "e.heic", "README"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "more").mkdir()
    for name in ("f.png", "g.png"):
        (tmp_path / "in" / name).symlink_to("nowhere")
    with open_source(tmp_path / "in") as source:
        assert source.total == 2
    assert "2 pictures; left out: 2 .mp4, 2 broken links, 1 .heic, 1 folder, 1 without suffix" in caplog.text


def test_folder_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    for name in ("c.mp4", "d.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"no picture in it, but 2 .mp4; expected files of the kinds"):
        open_source(tmp_path)


def test_pages_after_the_first_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pages = [np.full((20, 30, 3), grey, np.uint8) for grey in (10, 20, 30)]
    assert cv2.imwritemulti(str(tmp_path / "scan.tif"), pages)
    (frame,) = open_source(tmp_path / "scan.tif")
    assert frame.image[0, 0, 0] == 10
    assert "scan.tif: holds several pictures; the first is taken" in caplog.text
    caplog.clear()
    assert cv2.imwrite(str(tmp_path / "one.tif"), pages[0])
    list(open_source(tmp_path / "one.tif"))
    assert caplog.text == ""


def test_unreadable_picture_is_skipped_if_asked(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "in", [f"{i}.jpg" for i in range(4)])
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    frames, error = read_all(open_source(tmp_path / "in", on_unreadable="skip"))
    assert error is None
    assert [frame.error is None for frame in frames] == [True, False, True, True]
    assert "1.jpg: not a picture, or a damaged one" in str(frames[1].error)


# --- names and pipes that native code can't take


def odd_name(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_video_whose_name_is_no_utf8(suffix: str, tmp_path: Path) -> None:
    path = odd_name(tmp_path, b"caf\xe9" + suffix.encode())
    shutil.move(write_video(tmp_path / f"clip{suffix}", 7), path)
    frames, error = read_all(open_source(path))
    assert (len(frames), error) == (7, None)
    frames[0].source.encode()  # can be printed and written as JSON
    assert frames[0].source.endswith(r"caf\xe9" + suffix) or "udce9" in frames[0].source


@pytest.mark.usefixtures("reader")
def test_pictures_whose_names_are_no_utf8(tmp_path: Path) -> None:
    (picture,) = write_pictures(tmp_path / "in", ["a.png"])
    path = odd_name(tmp_path / "in", b"caf\xe9.png")
    picture.rename(path)
    assert [len(list(open_source(spec))) for spec in (path, tmp_path / "in", f"{tmp_path}/in/*.png")] == [
        1
    ] * 3
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(SourceError) as caught:
        list(open_source(path))
    str(caught.value).encode()


@pytest.mark.usefixtures("reader")
def test_pipe_gives_its_frames_and_ends(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", 20).read_bytes()
    pipe = tmp_path / "p.mkv"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(clip,), daemon=True).start()
    done: list[tuple[list[Frame], str | None]] = []
    reading = threading.Thread(target=lambda: done.append(read_all(open_source(pipe))), daemon=True)
    reading.start()
    reading.join(DEADLINE_S)
    assert done, "it hangs"
    frames, error = done[0]
    assert (len(frames), error) == (20, None)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_device_that_is_no_camera_is_refused(device: str) -> None:
    with pytest.raises(SourceError, match=f"{device}: is a device or a socket; give a file"):
        open_source(device)
