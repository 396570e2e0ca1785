"""JSON lines: every figure, readable as they come."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from sdk.errors import SinkError
from sdk.sinks import (
    JsonLines,
)
from sdk.sinks.record import EventRecord, Record
from sdk.sources import SourceEvent, SourceState
from sdk.sources.roi import Roi
from tests.sdk.conftest import make_frame, make_result


def test_json_lines_hold_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLines(path, ["red", "blue"]) as sink:
        sink.write(make_frame(0, time_s=0.04), make_result(n_draws=2, seeded=True))
        sink.write(make_frame(1), make_result(label=None))
    first, second = (msgspec.json.decode(line, type=Record) for line in path.read_bytes().splitlines())
    assert first == Record(
        frame=0,
        source="clip.mp4",
        time_s=0.04,
        label="red",
        score=0.75,
        top={"red": 0.75, "blue": 0.25},
        suspicion=None,
        draws=[
            {"purifier": "purifier-00", "classifier": "classifier-00"},
            {"purifier": "purifier-01", "classifier": "classifier-00"},
        ],
        roi=None,
        timings_ms={"preprocess": 0.1, "draw": 0.2, "purify": 1.0, "classify": 0.7, "total": 2.0},
        seeded=True,
        error=None,
    )
    assert (second.label, second.score, second.top, second.error) == (
        None,
        None,
        None,
        "engine purifier-00: failed",
    )


def test_json_lines_on_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with JsonLines("-", ["red", "blue"]) as sink:
        sink.write(make_frame(3), make_result())
    assert msgspec.json.decode(capfdbinary.readouterr().out, type=Record).frame == 3


def test_json_lines_into_a_pipe_are_read_as_they_come(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with JsonLines(tmp_path / "pipe", ["red", "blue"]) as sink:
        sink.write(make_frame(3), make_result())
        assert msgspec.json.decode(os.read(reader, 10_000), type=Record).frame == 3
        os.close(reader)
        with pytest.raises(SinkError, match=r"pipe: its reader is gone"):
            sink.write(make_frame(4), make_result())
    assert (tmp_path / "pipe").is_fifo()


def test_json_lines_of_a_name_that_is_no_text_and_of_labels_that_are_there_twice(tmp_path: Path) -> None:
    frame = dataclasses.replace(make_frame(), source=os.fsdecode(b"caf\xe9.png"))
    with JsonLines(tmp_path / "out", ["crane", "crane"]) as sink:
        sink.write(frame, make_result("crane", score=0.25))
    found = msgspec.json.decode((tmp_path / "out").read_bytes(), type=Record)
    assert found.source == r"caf\udce9.png"
    assert found.top == {"crane": 0.75}, "of two classes with one name, the more probable one"


FILL_THE_DISK = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from sdk.errors import SinkError
from sdk.sinks import JsonLines
from tests.sdk.conftest import make_frame, make_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with JsonLines(sys.argv[1], ['red', 'blue']) as sink:
        for index in range(4000):
            sink.write(make_frame(index), make_result(score=index / 4000))
except SinkError as error:
    print(error)
"""


def test_full_disk_leaves_the_whole_lines(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "out.jsonl"), root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    assert 1 < len(lines) < 4000
    assert [msgspec.json.decode(line, type=Record).frame for line in lines] == list(range(len(lines)))
    assert f"can't be written: File too large; the {len(lines)} lines before are kept" in done.stdout


def test_lines_can_be_followed_from_the_first_on(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("yesterday's\n")
    with JsonLines(path, ["red", "blue"]) as sink:
        assert path.read_text() == "yesterday's\n", "nothing has come yet"
        for index in range(3):
            sink.write(make_frame(index), make_result())
            lines = path.read_bytes().splitlines()
            assert [msgspec.json.decode(line, type=Record).frame for line in lines] == list(range(index + 1))


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_closed_standard_output_is_one_line(closed: str, tmp_path: Path) -> None:
    script = (
        "import sys; from sdk.sinks import JsonLines; from sdk.errors import SinkError\n"
        "try: JsonLines('-', []).open()\n"
        "except SinkError as error: open(sys.argv[1], 'w').write(str(error))\n"
    )
    command = f'exec "$0" -c "$1" "$2" {closed}'
    said = tmp_path / "said"
    root = str(Path(__file__).parents[3])
    subprocess.run(["sh", "-c", command, sys.executable, script, str(said)], check=True, cwd=root, timeout=60)
    assert said.read_text().startswith("standard output: can't be written: it is closed")


def test_unsure_frame_is_no_decision(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "out", ["red", "blue"]) as sink:
        sink.write(make_frame(), dataclasses.replace(make_result(score=0.3), label="unsure", accepted=False))
        sink.write(make_frame(1), make_result())
        sink.write(make_frame(2), make_result(label=None))
    lines = [msgspec.json.decode(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    assert [(line["label"], line["accepted"]) for line in lines] == [
        ("unsure", False),
        ("red", True),
        (None, False),
    ]


def test_each_region_is_a_line(tmp_path: Path) -> None:
    rois = (Roi(0, 0, 10, 10), Roi(5, 5, 20, 20))
    frame = dataclasses.replace(make_frame(), rois=rois)
    with JsonLines(tmp_path / "out", ["red", "blue"]) as sink:
        sink.write_regions(frame, [dataclasses.replace(make_result(), region=roi) for roi in rois])
    found = [msgspec.json.decode(line, type=Record) for line in (tmp_path / "out").read_bytes().splitlines()]
    assert [each.roi for each in found] == list(rois)
    assert {each.frame for each in found} == {0}


def test_source_that_stalls_and_comes_back_is_told(tmp_path: Path) -> None:
    events = [
        SourceEvent("yard", SourceState.LIVE, time_s=0.0),
        SourceEvent("yard", SourceState.STALLED, "no frame for 10 s", time_s=1.5),
        SourceEvent("door", SourceState.LIVE, time_s=2.0),
        SourceEvent("yard", SourceState.LIVE, time_s=3.0),
        SourceEvent("gate", SourceState.CONNECTING, "the connection ended", time_s=3.5),
        SourceEvent("door", SourceState.ENDED, time_s=4.0),
    ]
    with JsonLines(tmp_path / "out", ["red", "blue"]) as sink:
        for event in events:
            sink.source_changed(event)
    lines = [
        msgspec.json.decode(line, type=EventRecord) for line in (tmp_path / "out").read_bytes().splitlines()
    ]
    assert lines == [
        EventRecord("stalled", "yard", "no frame for 10 s", "1970-01-01T00:00:01.500+00:00"),
        EventRecord("live", "yard", None, "1970-01-01T00:00:03.000+00:00"),
        EventRecord("connecting", "gate", "the connection ended", "1970-01-01T00:00:03.500+00:00"),
    ]


def test_names_that_are_no_text_in_messages(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    with JsonLines(tmp_path / "out", ["red", "blue"]) as sink:
        sink.write(make_frame(), dataclasses.replace(make_result(label=None), error=f"{name}: cut short"))
        sink.source_changed(SourceEvent(name, SourceState.FAILED, f"{name}: cut short"))
    first, second = map(msgspec.json.decode, (tmp_path / "out").read_bytes().splitlines())
    assert first["error"] == second["reason"] == r"caf\udce9.jpg: cut short"


def test_folder_that_is_removed_meanwhile_keeps_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    sink = JsonLines(folder / "r.jsonl", ["red", "blue"])
    sink.open()
    sink.write(make_frame(0), make_result())
    (folder / "r.jsonl").unlink()
    folder.rmdir()
    with pytest.raises(SinkError, match=r"r.jsonl: can't be written: No such file or directory$"):
        sink.close()
