"""``edge-purify`` as a user types it: the loop, its mistakes, and the other commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from sdk import backends
from sdk.cli import main
from sdk.sinks.record import Record
from tests.sdk.cli.helpers import COMMAND, ON_THE_CPU, Output, read_records
from tests.sdk.conftest import N_FRAMES, MjpegServer, count_frames, cut, wait_until, write_video

# --- the loop


def test_video_in_video_and_json_out(
    edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    saved, lines = clip.with_name("saved.mp4"), clip.with_name("out.jsonl")
    code, out, err = edge_purify(
        "--source", clip, "--bundle", tiny_bundle, "--save", saved, "--json", lines, "--votes", 2
    )
    assert (code, out) == (0, "")
    assert count_frames(saved) == N_FRAMES
    records = read_records(lines)
    assert [record.frame for record in records] == list(range(N_FRAMES))
    assert all(len(record.draws) == 2 and not record.seeded and record.error is None for record in records)
    purifiers = {draw["purifier"] for record in records for draw in record.draws}
    assert purifiers == {"purifier-00", "purifier-01", "purifier-02"}
    assert err[0].startswith(f"{N_FRAMES} frames in ")
    summary = "\n".join(err)
    for word in (
        "labels",
        "purifier-00",
        "classifier-01",
        "p50 ms",
        "p99 ms",
        "capture",
        "classify",
        "write",
    ):
        assert word in summary
    assert sorted(path.name for path in clip.parent.iterdir()) == ["clip.mp4", "out.jsonl", "saved.mp4"]


def test_max_frames_and_pictures(edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path) -> None:
    folder = clip.with_name("pictures")
    code, _, err = edge_purify("--source", clip, "--bundle", tiny_bundle, "--save", folder, "--max-frames", 3)
    assert code == 0
    assert err[0].startswith("3 frames in ")
    assert sorted(path.name for path in folder.iterdir()) == [f"clip-{i:06d}.png" for i in range(3)]


def test_verbose_prints_a_line_a_frame(
    edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    _, out, _ = edge_purify("--source", clip, "--bundle", tiny_bundle, "--max-frames", 2, "-v", "--votes", 2)
    first, second = out.splitlines()
    assert first.startswith("frame 0  ")
    assert second.startswith("frame 1  ")
    assert first.count("purifier-") == first.count(" × classifier-") == 2
    assert first.endswith(" ms")


def test_json_on_standard_output_is_alone_there(
    edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    code, out, err = edge_purify("--source", clip, "--bundle", tiny_bundle, "--json", "-")
    assert code == 0
    assert [json.loads(line)["frame"] for line in out.splitlines()] == list(range(N_FRAMES))
    assert err


def test_seeded_run_repeats_and_says_so_loudly(
    edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    def draws(*more: object) -> tuple[list[list[dict[str, str]]], list[bool], list[str]]:
        _, out, err = edge_purify("--source", clip, "--bundle", tiny_bundle, "--json", "-", *more)
        records = [msgspec.json.decode(line, type=Record) for line in out.splitlines()]
        return [record.draws for record in records], [record.seeded for record in records], err

    first, seeded, err = draws("--seed", 7)
    assert err[0] == "edge-purify: --seed 7 makes the draws predictable: they protect nothing"
    assert "seeded: these draws were predictable and protected nothing" in err
    assert all(seeded)
    assert draws("--seed", 7)[0] == first
    assert draws("--seed", 8)[0] != first
    unseeded, marks, quiet = draws()
    assert unseeded != first
    assert not any(marks)
    assert not any("seed" in line for line in quiet)


@pytest.mark.parametrize(("backend", "count"), [("auto", 1), ("onnxruntime", 0)])
def test_auto_says_once_that_it_falls_back_to_the_cpu(
    backend: str,
    count: int,
    clip: Path,
    tiny_bundle: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "gpu_nodes", list)
    with pytest.raises(SystemExit):
        main(["--source", str(clip), "--bundle", str(tiny_bundle), "--max-frames", "2", "--backend", backend])
    assert capfd.readouterr().err.splitlines().count(ON_THE_CPU) == count


def test_suspicion_is_in_every_line_where_it_was_asked_for(
    edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    for asked in ([], ["--suspicion"]):
        _, out, _ = edge_purify("--source", clip, "--bundle", tiny_bundle, "--json", "-", *asked)
        found = [msgspec.json.decode(line, type=Record).suspicion for line in out.splitlines()]
        assert len(found) == N_FRAMES
        assert all((value is not None and 0 < value < 1) if asked else value is None for value in found)


def test_cut_video_keeps_the_frames_before(
    edge_purify: Callable[..., Output], tmp_path: Path, tiny_bundle: Path
) -> None:
    clip = cut(write_video(tmp_path / "clip.avi"), 0.5)
    saved, lines = tmp_path / "saved.avi", tmp_path / "out.jsonl"
    code, _, err = edge_purify("--source", clip, "--bundle", tiny_bundle, "--save", saved, "--json", lines)
    n_readable = count_frames(clip)
    assert 0 < n_readable < N_FRAMES
    assert code == 1
    assert err[0].startswith(f"{n_readable} frames in ")
    assert err[-1] == (
        f"edge-purify: error: {clip}: ended after {n_readable} of {N_FRAMES} frames: "
        "the file is cut short; get it again"
    )
    assert count_frames(saved) == len(read_records(lines)) == n_readable


def n_lines(folder: Path) -> int:
    """Of the JSON lines in ``folder``, under whatever name they have while they are written."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_live_run_finishes_its_files(
    stop: signal.Signals, tmp_path: Path, tiny_bundle: Path, mjpeg_server: MjpegServer
) -> None:
    saved, lines = tmp_path / "saved.mp4", tmp_path / "out.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "--source", mjpeg_server.url(), "--bundle", tiny_bundle, "--save", saved, "--json", lines],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_until(lambda: n_lines(tmp_path) >= 5, "five frames")
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert ", interrupted" in err
    assert len(read_records(lines)) >= 5
    assert count_frames(saved) >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "saved.mp4"]


def test_reader_that_goes_away_is_one_line(clip: Path, tiny_bundle: Path) -> None:
    for arguments, expected in ((["--json", "-"], ["standard output: its reader is gone"]), (["-v"], [])):
        reading, writing = os.pipe()
        os.close(reading)
        command = [*COMMAND, "--source", str(clip), "--bundle", str(tiny_bundle), *arguments]
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
        os.close(writing)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        assert errors == [f"edge-purify: error: {message}" for message in expected]


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give --source SPEC or --camera N (edge-purify --help says more)"),
        (
            ["--camera", "0", "--votes", "0"],
            2,
            "Invalid value for '--votes': 0 is not in the range",
        ),
        (["--camera", "9" * 20], 2, "Invalid value for '--camera'"),
        (["--source", ""], 2, "--source, --save and --json need a path, got an empty one"),
        (["--source", "a.mp4", "--json", ""], 2, "need a path, got an empty one"),
        (["--camera", "-1"], 2, "Invalid value for '--camera': -1"),
        (["--camera", "front"], 2, "Invalid value for '--camera': 'front' is not a valid integer"),
        (["--camera", "0", "--save", "a.mp4", "--save", "b.mp4"], 2, "--save is given twice"),
        (["--camera", "0", "--json=a", "--votes", "2", "--json", "a"], 2, "--json is given twice"),
        (["--camera", "0", "--max-frames", "0"], 2, "Invalid value for '--max-frames': 0"),
        (["--camera", "0", "--seed", "x"], 2, "Invalid value for '--seed': 'x'"),
        (["--camera", "0", "--backend", "tpu"], 2, "'tpu' is not one of 'auto', 'onnxruntime'"),
        (["--camera", "0", "--on-error", "ignore"], 2, "'ignore' is not one of 'raise', 'skip'"),
        (["--camera", "0", "--json", "-", "-v"], 2, "--json - and --verbose both want standard output"),
        (
            ["--source", "a.mp4", "--save", "./a.mp4"],
            2,
            "--source, --save and --json need a different path each",
        ),
        (["--sauce", "x"], 2, "No such option"),
        (["inspekt"], 2, "No such command 'inspekt'"),
        (["--votes", "2", "inspect", "x"], 2, "--votes before 'inspect' has no effect"),
        (["inspect"], 2, "Missing argument 'BUNDLE'"),
        (["inspect", "nowhere"], 1, "nowhere: no such folder"),
        (["--camera", "0", "--bundle", "nowhere"], 1, "nowhere: no such folder; give the folder that"),
        (["benchmark", "--bundle", "nowhere"], 1, "nowhere: no such folder"),
        (["benchmark", "--frames", "0"], 2, "Invalid value for '--frames'"),
        (
            ["benchmark", "--size", "0x48"],
            2,
            "--size 0x48: expected WxH in pixels, up to 8192, like 1280x720",
        ),
        (["benchmark", "--size", "16x16"], 2, "--size 16x16: expected at least the engines' image, 32x32"),
        (["benchmark", "--only", "all"], 2, "--only all: expected one of stages, preprocess, votes, banks"),
        (["benchmark", "--soak", "9"], 2, "--soak: expected at least 200 frames, got 9"),
    ],
)
def test_mistake_is_one_line(
    arguments: list[str], code: int, message: str, edge_purify: Callable[..., Output]
) -> None:
    got, out, err = edge_purify(*arguments)
    assert (got, out) == (code, "")
    assert len(err) == 1
    assert err[0].startswith("edge-purify: error: ")
    assert message in err[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--camera", "63"], 1, "camera 63: no such camera"),
        (["--source", "nowhere.mp4"], 1, "nowhere.mp4: no such file or folder"),
        (["--source", "rtsp://admin:hunter2@127.0.0.1:9/1"], 1, "rtsp://127.0.0.1: no video there"),
        (["--source", "CLIP", "--save", "nowhere/out.mp4"], 1, "nowhere/out.mp4: can't be written"),
        (["--source", "CLIP", "--save", "out.gif"], 2, "--save out.gif: expected a video's suffix"),
        (["--source", "CLIP", "--json", "nowhere/out"], 1, "nowhere/out: can't be written"),
        (["--source", "CLIP", "--json", "."], 1, ".: is a folder, expected a file's name"),
        (["--source", "CLIP", "--json", "/"], 1, "/: is a folder"),
        (["--source", "CLIP", "--json", "x" * 300], 1, "can't be written: File name too long"),
        (["--source", "CLIP", "--save", "/dev/null.avi/out.avi"], 1, "can't be written"),
        (["--source", "CLIP", "--precision", "int8"], 1, "int8"),
        (["--source", "CLIP", "--backend", "tensorrt"], 1, "pip install 'edge-purify[tensorrt]'"),
        (["--source", "CLIP", "--backend", "tensorrt"], 1, "edge-purify doctor"),
        (["--source", "CLIP", "--provider", "cuda"], 2, "provider cuda: only backend onnxruntime has it"),
        (
            ["--source", "CLIP", "--backend", "onnxruntime", "--provider", "cuda"],
            1,
            "provider cuda: expected CUDAExecutionProvider in this ONNX Runtime",
        ),
    ],
)
def test_mistake_with_a_good_bundle_is_one_line(
    arguments: list[str],
    code: int,
    message: str,
    clip: Path,
    tiny_bundle: Path,
    edge_purify: Callable[..., Output],
) -> None:
    arguments = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    got, out, err = edge_purify("--bundle", tiny_bundle, *arguments)
    assert (got, out) == (code, "")
    assert len(err) == 1
    assert message in err[0]


def flip_a_byte(bundle: Path) -> None:
    path = bundle / "onnx" / "purifier-01.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def lose_a_file(bundle: Path) -> None:
    (bundle / "labels.txt").unlink()


def come_from_the_future(bundle: Path) -> None:
    path = bundle / "bundle.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 9'))


def climb_out(bundle: Path) -> None:
    (bundle.parent / "labels.txt").write_bytes((bundle / "labels.txt").read_bytes())
    path = bundle / "bundle.json"
    path.write_text(path.read_text().replace('"labels.txt"', '"../labels.txt"'))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "onnx/purifier-01.onnx is damaged or changed: expected sha256"),
        (lose_a_file, "'labels.txt' is missing; copy the bundle again"),
        (come_from_the_future, "expected schema 1, got 9; update edge-purify"),
        (climb_out, "path '../labels.txt' leads outside the folder"),
    ],
)
@pytest.mark.parametrize("command", ["loop", "inspect", "benchmark"])
def test_damaged_bundle_is_refused(
    damage: Callable[[Path], None],
    message: str,
    command: str,
    clip: Path,
    bundle_copy: Path,
    edge_purify: Callable[..., Output],
) -> None:
    damage(bundle_copy)
    arguments = {
        "loop": ["--source", clip, "--bundle", bundle_copy],
        "inspect": ["inspect", bundle_copy],
        "benchmark": ["benchmark", "--bundle", bundle_copy],
    }
    code, out, err = edge_purify(*arguments[command])
    assert (code, out) == (1, "")
    assert len(err) == 1
    assert message in err[0]


# --- the other commands


BRIEF_BENCHMARK = ("benchmark", "--frames", 5, "--size", "64x48", "--only", "stages")


def test_benchmark_as_table_and_json(edge_purify: Callable[..., Output], tiny_bundle: Path) -> None:
    code, out, err = edge_purify(*BRIEF_BENCHMARK, "--bundle", tiny_bundle, "--json")
    assert (code, err) == (0, [])
    found = json.loads(out)
    assert (found["frames"], found["frame_width"], found["frame_height"]) == (5, 64, 48)
    code, out, _ = edge_purify(*BRIEF_BENCHMARK, "--bundle", tiny_bundle)
    assert code == 0
    assert "p99" in out


def test_benchmark_gate(
    edge_purify: Callable[..., Output], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound, expected in ((1e9, 0), (0.0, 3)):
        for name in ("OVERHEAD_BOUND", "TAIL_BOUND", "DRAW_BOUND_US"):
            monkeypatch.setattr(f"sdk.benchmark.bounds.{name}", bound)
        code, out, err = edge_purify(*BRIEF_BENCHMARK, "--bundle", tiny_bundle, "--gate", "--json")
        assert code == expected
        bounds = {check["bound"] for check in json.loads(out)["checks"]}
        assert bounds == {bound}, "the figures come out, gate or not"
        assert len(err) == (1 if expected else 0)


def test_version(edge_purify: Callable[..., Output]) -> None:
    code, out, _ = edge_purify("--version")
    assert code == 0
    assert out.startswith("edge-purify, version 0.")


HEAVY = ("torch", "onnx", "onnxruntime", "cv2", "numpy", "rich", "msgspec")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["inspect", "--help"], ["benchmark", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom sdk.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as ended:\n    assert not ended.code\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "edge-purify" in done.stdout


@pytest.mark.parametrize("arguments", [["--camera", "0"], ["benchmark"]])
def test_missing_opencv_is_one_line_with_the_remedy(arguments: list[str], tiny_bundle: Path) -> None:
    program = "import sys; sys.modules['cv2'] = None; from sdk.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments, "--bundle", str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-purify: error: ")
    assert "; pip install 'edge-purify[opencv]', or on a Jetson apt install python3-opencv" in line


# --- several sources, regions, scores


def test_several_sources_with_a_saved_file_each(
    edge_purify: Callable[..., Output], tmp_path: Path, tiny_bundle: Path
) -> None:
    first, second = write_video(tmp_path / "a.avi", 6), write_video(tmp_path / "b.avi", 9)
    lines, saved = tmp_path / "out.jsonl", tmp_path / "saved.avi"
    code, out, err = edge_purify(
        "--source", first, "--source", second, "--bundle", tiny_bundle, "--json", lines, "--save", saved
    )
    assert (code, out) == (0, "")
    records = read_records(lines)
    for path, n_frames in ((first, 6), (second, 9)):
        assert [each.frame for each in records if each.source == str(path)] == list(range(n_frames))
        assert f"{path}: {n_frames} frames, ended" in err
    assert [count_frames(tmp_path / f"saved-{i}.avi") for i in (1, 2)] == [6, 9]
    assert not saved.exists()


@pytest.mark.parametrize("policy", ["end", "keep"])
def test_source_that_fails_beside_another(
    policy: str, edge_purify: Callable[..., Output], tmp_path: Path, tiny_bundle: Path
) -> None:
    bad, good = cut(write_video(tmp_path / "bad.avi"), 0.5), write_video(tmp_path / "good.avi", 90)
    (tmp_path / "list").write_text(f"{bad}\n{good}\n")
    code, _, err = edge_purify(
        "--source", f"@{tmp_path / 'list'}", "--bundle", tiny_bundle, "--on-source-error", policy
    )
    assert code == 1
    assert any("bad.avi: ended after " in line for line in err)
    assert (f"{good}: 90 frames, ended" in err) == (policy == "keep")


def test_source_that_cannot_be_opened_is_left_out_if_asked(
    edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    arguments = ["--source", "absent.mp4", "--source", clip, "--bundle", tiny_bundle]
    code, _, err = edge_purify(*arguments)
    assert (code, len(err)) == (1, 1)
    code, _, err = edge_purify(*arguments, "--on-source-error", "keep")
    assert code == 1, "as if it had failed later"
    assert "absent.mp4: 0 frames, failed: absent.mp4: no such file or folder" in err
    assert any(line.startswith("edge-purify: left out: absent.mp4: no such file") for line in err)
    assert any(line.startswith(f"{N_FRAMES} frames in ") for line in err)


def test_folder_with_a_damaged_picture(
    edge_purify: Callable[..., Output], tmp_path: Path, tiny_bundle: Path
) -> None:
    import cv2
    import numpy as np

    (tmp_path / "in").mkdir()
    for i in range(4):
        assert cv2.imwrite(str(tmp_path / "in" / f"{i}.jpg"), np.full((200, 300, 3), 90, np.uint8))
    (tmp_path / "in" / "2.jpg").write_bytes((tmp_path / "in" / "2.jpg").read_bytes()[:900])
    lines, folder = tmp_path / "out.jsonl", tmp_path / "saved"
    code, _, err = edge_purify(
        "--source", tmp_path / "in", "--on-error", "skip", "--bundle", tiny_bundle,
        "--json", lines, "--save", folder,
    )  # fmt: skip
    assert code == 0
    records = read_records(lines)
    assert [each.label is None for each in records] == [False, False, True, False]
    assert [each.error is None for each in records] == [True, True, False, True]
    assert ", 1 without a label" in err[0]
    assert len(list(folder.iterdir())) == 4


def test_regions_scores_and_hidden_draws(
    edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    lines, saved = clip.with_name("out.jsonl"), clip.with_name("saved.avi")
    code, _, err = edge_purify(
        "--source", clip, "--bundle", tiny_bundle, "--json", lines, "--save", saved, "--hide-draw",
        "--roi", "0,0,32,32", "--roi", "40,10,20,30", "--min-score", "1", "--max-frames", 5,
    )  # fmt: skip
    assert code == 0, err
    records = read_records(lines)
    assert len(records) == 10
    assert {each.label for each in records} == {"unsure"}
    assert b"purifier-0" not in lines.read_bytes()
    assert not any("purifier-0" in line for line in err)
    assert [each.roi is not None and each.roi.x for each in records] == [0, 40] * 5


def test_url_is_shown_by_scheme_and_host_alone(
    edge_purify: Callable[..., Output], tmp_path: Path, tiny_bundle: Path, mjpeg_server: MjpegServer
) -> None:
    (tmp_path / "camera").write_text(
        mjpeg_server.url("secretpath/live.mjpg?key=hunter2", user="admin:hunter2@")
    )
    lines = tmp_path / "out.jsonl"
    code, out, err = edge_purify(
        "--source",
        f"@{tmp_path / 'camera'}",
        "--bundle",
        tiny_bundle,
        "--json",
        lines,
        "--max-frames",
        3,
        "-v",
    )
    assert code == 0, err
    assert {each.source for each in read_records(lines)} == {"http://127.0.0.1"}
    for secret in ("hunter2", "secretpath", "admin"):
        assert secret not in out + "".join(err) + lines.read_text()


def test_version_and_purpose_are_asked_of_a_signed_bundle(
    edge_purify: Callable[..., Output], clip: Path, bundle_copy: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from export.signing import sign
    from sdk import Bundle, Purifier, UsageError
    from tests.sdk.keys import make_keys

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    keys = make_keys(tmp_path / "keys")
    sign(bundle_copy, keys.private, version=2, purpose="gate")
    command = ["--source", clip, "--bundle", bundle_copy, "--max-frames", 1]
    trusted = [*command, "--require-signature", keys.public]
    assert edge_purify(*trusted, "--min-version", 2, "--purpose", "gate", "--remember-version")[0] == 0
    for asked in (["--min-version", 3], ["--purpose", "door"]):
        code, _, err = edge_purify(*trusted, *asked)
        assert (code, len(err)) == (1, 1), err
    code, _, err = edge_purify(*command, "--min-version", 1)
    assert (code, len(err)) == (2, 1), err
    with pytest.raises(UsageError, match="the bundle is open already; give the key"):
        Purifier.load(Bundle.open(bundle_copy), min_version=1)


@pytest.mark.parametrize("begun", [False, True])
def test_pipe_that_says_nothing_holds_no_signal_up(begun: bool, tmp_path: Path, tiny_bundle: Path) -> None:
    """Before its writer comes, and while it sends nothing; two signals spoil no more than one."""
    pipe, lines = tmp_path / "p.mkv", tmp_path / "out.jsonl"
    clip = write_video(tmp_path / "clip.mkv").read_bytes()
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*COMMAND, "--source", pipe, "--bundle", tiny_bundle, "--json", lines],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        if begun:
            with pipe.open("wb") as stream:
                stream.write(clip[: len(clip) * 3 // 4])
                stream.flush()
                wait_until(lambda: n_lines(tmp_path) >= 3, "three frames")
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=60)
        else:
            assert process.stderr is not None
            process.stderr.readline()  # what runs the engines: the pipe is next
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    if begun:
        assert len(read_records(lines)) >= 3
