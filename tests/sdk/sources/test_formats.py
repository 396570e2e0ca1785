"""What FFmpeg opens and is no video, times that go back, ends that are cut, and lists of every kind."""

from __future__ import annotations

import logging
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sdk.errors import SourceError
from sdk.sources import open_source, open_sources
from sdk.sources.video.clock import Clock
from tests.sdk.conftest import write_video
from tests.sdk.sources.helpers import SIZE, pictures, read_all, write_h264

# --- what is refused by name


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A little-endian TIFF's header and first directory, of (tag, type, count, value)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + packed + bytes(400)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.dng", tiff((254, 4, 1, 1), (256, 4, 1, 16), (50706, 1, 4, 0x0401))),
        ("a.nef", tiff((254, 4, 1, 1), (256, 4, 1, 160))),
        ("a.cr2", b"II*\x00\x10\0\0\0CR\x02\0" + bytes(200)),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(200)),
        ("a.raf", b"FUJIFILMCCD-RAW " + bytes(200)),
        ("a.orf", b"IIRO\x08\0\0\0" + bytes(200)),
        ("a.rw2", b"IIU\0" + bytes(400)),
    ],
)
def test_raw_pictures_are_refused_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    """FFmpeg and OpenCV give their small preview, or take them for an old game's film."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name}: a camera's raw picture, which isn't served; convert"):
        open_source(tmp_path / name)


def test_plain_tiff_is_a_picture(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((20, 30, 3), np.uint8))
    assert len(list(open_source(tmp_path / "a.tif"))) == 1


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.rar", b"Rar!\x1a\x07\0", "a RAR archive"),
        ("a.xz", b"\xfd7zXZ\0", "an xz archive"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript document"),
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="10"/>\n', "an SVG drawing"),
        ("a.xspf", b'<?xml version="1.0"?><playlist xmlns="http://xspf.org/ns/0/">', "an XML document"),
        ("a.mpd", b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">\n', "a DASH manifest"),
        ("a.sdp", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "an SDP session description"),
        ("a.html", b"<!DOCTYPE html>\n<a href='http://x'>\n", "a web page"),
        ("a.json", b'{"a": "http://user:hunter2@x"}\n', "a text file, neither a video nor a picture"),
        ("a.md", b"see https://example.org/x for more\n", "a text file, neither a video nor a picture"),
    ],
)
def test_other_files_are_refused_by_name(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    is_text = content.endswith((b"\n", b">"))
    (tmp_path / name).write_bytes(content if is_text else content + bytes(300))
    with pytest.raises(SourceError, match=f"{name}: {what}") as caught:
        open_source(tmp_path / name)
    assert "hunter2" not in str(caught.value)


def test_picture_by_its_name_alone_is_no_video(tmp_path: Path) -> None:
    for name in ("rand.jpg", "rand.png"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(20_000))
        with pytest.raises(SourceError, match=f"{name}: not a picture, or a damaged one; get it again"):
            open_source(tmp_path / name)


def test_old_formats_that_anything_looks_like_are_refused(tmp_path: Path) -> None:
    """Zeros are a karaoke disc to FFmpeg: one black frame."""
    (tmp_path / "a.cdg").write_bytes(bytes(9600))
    with pytest.raises(SourceError, match=r"a.cdg: neither a video nor a picture"):
        open_source(tmp_path / "a.cdg")


def test_hdr_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "hdr.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.color_trc = 16
        for picture in pictures(3):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    frames, error = read_all(open_source(tmp_path / "hdr.mkv"))
    assert (len(frames), error) == (3, None)
    assert "hdr.mkv: an HDR video, taken as it is" in caplog.text


def test_second_video_track_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height = SIZE
            stream.pix_fmt = "yuv420p"
        for picture in pictures(3):
            for stream in streams:
                container.mux(stream.encode(picture))
        for stream in streams:
            container.mux(stream.encode())
    frames, error = read_all(open_source(tmp_path / "two.mkv"))
    assert (len(frames), error) == (3, None)
    assert "two.mkv: holds 2 videos; number 1 is taken" in caplog.text


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".pbm"])
def test_less_usual_names_of_pictures_in_a_folder(suffix: str, tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", np.full((20, 30, 3), 255, np.uint8))[1].tobytes()
    bitmap = b"P1\n30 20\n" + b"0 1 " * 300
    (tmp_path / f"a{suffix}").write_bytes(bitmap if suffix == ".pbm" else jpeg)
    (frame,) = open_source(tmp_path)
    assert frame.image.shape == (20, 30, 3)


# --- times


def test_times_of_b_frames_that_a_container_lacks() -> None:
    clock = Clock(0.02, 0.02)
    pts_dts = [(2, 4), (8, 6), (6, 8), (10, 10), (4, 12), (16, 14), (14, 16), (18, 18)]
    times = [clock.seconds(pts, dts) for pts, dts in pts_dts]
    assert times == pytest.approx([0, 0.12, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32])


def test_times_that_begin_again_go_on() -> None:
    clock = Clock(0.1, 0.1)
    times = [clock.seconds(pts, pts) for pts in (5, 6, 7, 0, 1, 2)]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert [clock.seconds(None, None), clock.seconds(5, 5)] == pytest.approx([0.6, 0.8])


def test_without_timestamps_there_is_no_time() -> None:
    assert Clock(0.1, 0.1).seconds(None, None) is None


def test_recordings_behind_each_other_have_times_that_go_on(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "t.ts", 25)
    path.write_bytes(path.read_bytes() * 2)
    frames, error = read_all(open_source(path))
    assert (len(frames), error) == (50, None)
    times = [frame.time_s for frame in frames]
    assert times == sorted(times, key=lambda time_s: time_s or 0.0)
    assert times[-1] == pytest.approx(49 / 25, abs=0.05)


def test_avi_with_b_frames_keeps_its_length(tmp_path: Path) -> None:
    path = tmp_path / "b.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25), options={"bf": "2"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures(50):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    frames, error = read_all(open_source(path))
    assert (len(frames), error) == (50, None)
    times = [frame.time_s or 0.0 for frame in frames]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(49 / 25, abs=0.1)


def test_total_of_a_recording_that_starts_late(tmp_path: Path) -> None:
    whole = write_h264(tmp_path / "t.mp4", 50)
    with av.open(str(whole)) as reading, av.open(str(tmp_path / "late.mkv"), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        assert stream.time_base is not None
        for packet in reading.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.pts += int(3600 / stream.time_base)
                packet.dts += int(3600 / stream.time_base)
                packet.stream = copied
                writing.mux(packet)
    with open_source(tmp_path / "late.mkv") as source:
        assert source.total == pytest.approx(50, abs=2)
        assert len(list(source)) == 50


# --- ends


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_cut_flv_is_cut_short(share: float, tmp_path: Path) -> None:
    path = write_h264(tmp_path / "t.flv", 50)
    assert read_all(open_source(path))[1] is None
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    frames, error = read_all(open_source(path))
    assert 5 < len(frames) < 45
    assert "the file is cut short" in str(error)


def write_gif(path: Path, n_frames: int) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "rgb8"
        for picture in pictures(n_frames):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path.read_bytes()


def test_animation_without_its_trailer_is_whole_and_a_cut_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    data = write_gif(path, 6)
    for whole in (data, data[:-1], data + b"trailing"):
        path.write_bytes(whole)
        frames, error = read_all(open_source(path))
        assert (len(frames), error) == (6, None)
    path.write_bytes(data[: len(data) * 6 // 10])
    assert "the file is cut short" in str(read_all(open_source(path))[1])


# --- lists


PLAYLISTS = {
    "a.m3u": b"#EXTM3U\n#EXTINF:10,first\na.avi\n#EXTINF:4,second\nb.avi\n",
    "a.m3u8": b"\xef\xbb\xbf#EXTM3U\r\n#EXTINF:-1,first\r\na.avi\r\nb.avi\r\n",
    "a.pls": b"[playlist]\nFile1=a.avi\nTitle1=x\nFile2=b.avi\nNumberOfEntries=2\nVersion=2\n",
    "a.ffconcat": b"ffconcat version 1.0\nfile a.avi\nduration 1.2\nfile b.avi\n",
    "concat.txt": b"file 'a.avi'\nfile 'b.avi'\n",
    "quoted.txt": b"\"a.avi\"\n'b.avi'\n",
    "windows.txt": "a.avi\r\nb.avi\r\n".encode("utf-16"),
}


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_are_lists(name: str, tmp_path: Path) -> None:
    for video, n_frames in (("a.avi", 3), ("b.avi", 4)):
        write_video(tmp_path / video, n_frames, codec="MJPG")
    (tmp_path / name).write_bytes(PLAYLISTS[name])
    assert [len(read_all(source)[0]) for source in open_sources(tmp_path / name)] == [3, 4]


def test_list_of_globs_and_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for i in range(5):
        assert cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), np.full((20, 30, 3), i, np.uint8))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "list.txt").write_text("in/[0-2].png\n~/in/4.png\n")
    assert sum(len(read_all(source)[0]) for source in open_sources(tmp_path / "list.txt")) == 4


def test_hls_playlist_is_one_video(tmp_path: Path) -> None:
    write_h264(tmp_path / "0.ts", 25)
    (tmp_path / "a.m3u8").write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n0.ts\n#EXT-X-ENDLIST\n"
    )
    (source,) = open_sources(tmp_path / "a.m3u8")
    assert len(read_all(source)[0]) == 25


def test_pictures_of_a_mixed_list_are_one_source(tmp_path: Path) -> None:
    for i in range(5):
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((20, 30, 3), i, np.uint8))
    (tmp_path / "3.png").write_bytes(b"")  # one that can't be read is still a picture
    write_video(tmp_path / "a.avi", 4)
    (tmp_path / "list.txt").write_text("0.png\na.avi\n1.png\n2.png\n3.png\n4.png\n")
    stills, video = open_sources(tmp_path / "list.txt", on_unreadable="skip")
    frames = read_all(stills)[0]
    assert [frame.image[0, 0, 0] for frame in frames if frame.error is None] == [0, 1, 2, 4]
    assert len(read_all(video)[0]) == 4


def test_file_url_is_a_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 3).rename(tmp_path / "a b.avi")
    for url in (f"file://{tmp_path}/a%20b.avi", f"FILE://localhost{path}"):
        assert len(read_all(open_source(url))[0]) == 3
    with pytest.raises(SourceError, match=r"file://nas: a file of another machine; write file:///"):
        open_source("file://nas/share/a.avi")


def test_glob_in_a_folder_with_brackets(tmp_path: Path) -> None:
    for folder in ("a[1]", "a1"):
        (tmp_path / folder).mkdir()
        assert cv2.imwrite(str(tmp_path / folder / "a.png"), np.zeros((20, 30, 3), np.uint8))
    with open_source(f"{tmp_path}/a[1]/*.png") as source:
        assert [frame.source for frame in source] == [f"{tmp_path}/a[1]/a.png"]
    assert len(list(open_source(f"{tmp_path}/a*/*.png"))) == 2
    assert len(list(open_source(f"{tmp_path}/[a]1/*.png"))) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rtsp:/admin:hunter2@cam/1", r"rtsp:\*\*\*: not a URL; write it as rtsp:// and the rest"),
        ("HTTP:\\\\admin:hunter2@cam", r"HTTP:\*\*\*: not a URL; write it as http://"),
        ("admin:hunter2@cam/1", r"\*\*\*@\*\*\*: no such file or folder; an address begins with its kind"),
    ],
)
def test_address_that_lacks_a_part_shows_no_password(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(spec)
    assert "hunter2" not in str(caught.value)


# --- dark pictures


def test_picture_of_few_bits_in_many_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A camera's 12 bits in a file of 16: read as they are, they are almost black."""
    values = np.random.default_rng(0).integers(0, 4096, (20, 30), np.uint16)
    for name in ("a.png", "a.tif"):
        caplog.clear()
        assert cv2.imwrite(str(tmp_path / name), values)
        list(open_source(tmp_path / name))
        assert f"{name}: 16 bits a value, of which 12 are used: it is almost black" in caplog.text
        caplog.clear()
        assert cv2.imwrite(str(tmp_path / name), values * 16)
        list(open_source(tmp_path / name))
        assert caplog.text == ""


@pytest.fixture(autouse=True)
def _notices(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sdk")
