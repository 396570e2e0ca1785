"""A stream's address in the wrong place, and wrong files of options: one line, no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdk.cli import main
from tests.sdk.conftest import write_video

URL = "rtsp://user:SECRET@cam.example/SECRET?key=SECRET"


def ended(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert [line.startswith("edge-purify: error: ") for line in said.splitlines()].count(True) == 1
    assert all(line.startswith("edge-purify: ") for line in said.splitlines())
    return int(str(exit.value.code)), said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--camera", URL],
        ["--source", "x", "--votes", URL],
        [URL],
        ["inspect", URL],
        ["--source", "CLIP", "--serve", URL],
        ["--source", "CLIP", "--bundle", URL],
        ["--source", "CLIP", "--json", URL],
        ["--source", "CLIP", "--save", URL],
        ["--source", "CLIP", "--roi", URL],
        ["--source", "CLIP", "--require-signature", URL],
        ["--source", "https://cam.example/x", "--ca", URL],
        ["--config", URL],
    ],
)
def test_an_address_in_the_wrong_place_is_not_printed(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = str(write_video(tmp_path / "clip.avi", 2))
    code, said = ended(capfd, *[clip if argument == "CLIP" else argument for argument in arguments])
    assert code in (1, 2)
    assert "SECRET" not in said


@pytest.mark.parametrize(
    "text",
    [
        f'camera = "{URL}"',
        f'source = {{url = "{URL}"}}',
        f'source = ["{URL}", 5]\nvotes = "{URL}"',
        f'"{URL}" = 1',
        "votes = " + "9" * 5000,
        "votes = " + "[" * 5000,
        'source = "a\\u0000b"',
        'source = "x.mp4"\nsave = "a\\u0000b"',
        'source = "x.mp4"\nbundle = "a\\u0000b"',
        'source = "x.mp4"\nrequire-signature = "a\\u0000b"',
        "min-score = nan",
        'source = "\\ud800"',
    ],
)
def test_a_wrong_file_of_options_is_one_line(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "options.toml"
    path.write_text(text)
    code, said = ended(capfd, "--config", path)
    assert code in (1, 2)
    assert "SECRET" not in said
