"""``--config FILE``: what the file says is checked like the command line, which wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.cli import main
from tests.sdk.cli.helpers import Output, read_records
from tests.sdk.conftest import write_video


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "camera.toml"
        path.write_text(text)
        return path

    return write


def test_the_loop_is_configured_by_a_file(
    config: Callable[[str], Path], edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    lines = clip.with_name("out.jsonl")
    path = config(
        f'source = "{clip}"\nbundle = "{tiny_bundle}"\nvotes = 2\nmax_frames = 3\njson = "{lines}"\n'
        "suspicion = true\n"
    )
    assert edge_purify("--config", path)[0] == 0
    records = read_records(lines)
    assert [len(record.draws) for record in records] == [2, 2, 2]
    assert all(record.suspicion is not None for record in records)


def test_the_command_line_wins(
    config: Callable[[str], Path], edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    lines = clip.with_name("out.jsonl")
    path = config(f'camera = 63\nbundle = "{tiny_bundle}"\nvotes = 2\nmax-frames = 3\n')
    code, _, err = edge_purify(
        "--votes", 1, "--config", path, "--source", clip, "--json", lines, "--max-frames", 2
    )
    assert code == 0, err
    assert [len(record.draws) for record in read_records(lines)] == [1, 1]


def test_an_option_that_may_be_repeated_takes_a_list(
    config: Callable[[str], Path], edge_purify: Callable[..., Output], clip: Path, tiny_bundle: Path
) -> None:
    lines, other = clip.with_name("out.jsonl"), write_video(clip.with_name("other.mp4"))
    path = config(f'source = ["{clip}", "{other}"]\nbundle = "{tiny_bundle}"\njson = "{lines}"\n')
    assert edge_purify("--config", path)[0] == 0
    assert {record.source for record in read_records(lines)} == {str(clip), str(other)}
    assert edge_purify("--config", path, "--source", other)[0] == 0
    assert {record.source for record in read_records(lines)} == {str(other)}
    code, _, (line,) = edge_purify("--config", config("camera = [0, '1']"))
    assert (code, line.endswith("camera: expected a whole number, got '1'")) == (2, True)


def test_every_option_of_the_loop_can_be_configured() -> None:
    from sdk.cli.config import _key

    keys = {_key(option) for option in main.params if not option.is_eager}  # type: ignore[arg-type]
    assert {"source", "camera", "bundle", "require_signature", "serve", "verbose", "on_error"} <= keys
    assert not keys & {"config", "help", "version"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frames = 3", "frames: no such key; expected one of source, camera, bundle"),
        ("[camera]\nindex = 0", "camera: expected a whole number, got {'index': 0}"),
        ('votes = "2"', "votes: expected a whole number, got '2'"),
        ("votes = true", "votes: expected a whole number, got True"),
        ("votes = 2.5", "votes: expected a whole number, got 2.5"),
        ("votes = 0", "votes: 0 is not in the range 1<=x<=1000."),
        ('backend = "tpu"', "backend: 'tpu' is not one of 'auto', 'onnxruntime'"),
        ("suspicion = 1", "suspicion: expected true or false, got 1"),
        ("save = 3", "save: expected a string, got 3"),
        ("help = true", "help: no such key; expected one of source"),
        ("votes = ", "not TOML: "),
        ('config = "other.toml"', "config: no such key"),
    ],
)
def test_a_mistake_in_it_is_one_line_that_names_the_key(
    text: str, message: str, config: Callable[[str], Path], edge_purify: Callable[..., Output]
) -> None:
    path = config(text)
    code, out, (line,) = edge_purify("--config", path)
    assert (code, out) == (2, "")
    assert line.startswith(f"edge-purify: error: config {path}: {message}")


def test_a_file_that_cannot_be_read_is_one_line(
    edge_purify: Callable[..., Output], tmp_path: Path, config: Callable[[str], Path]
) -> None:
    code, _, (line,) = edge_purify("--config", tmp_path / "absent.toml")
    assert (code, line) == (
        2,
        f"edge-purify: error: config {tmp_path}/absent.toml: No such file or directory; give a TOML file "
        "with options as keys",
    )
    code, _, (line,) = edge_purify("--config", config("votes = 1"), "inspect", "x")
    assert (code, line) == (
        2,
        "edge-purify: error: --config before 'inspect' has no effect; put it after, or out "
        "(edge-purify --help says more)",
    )
