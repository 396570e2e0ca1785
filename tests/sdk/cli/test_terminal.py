"""What a stranger named reaches the terminal escaped: labels, ids, file names, a bundle's own words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.text import Text

from sdk.bundle import MANIFEST
from sdk.host.terminal import escape, printable
from tests.sdk.cli.helpers import Output
from tests.sdk.fakes.golden import rehash, with_golden

CLEAR = "\x1b[2J"
HOSTILE = f"a{CLEAR}\x9b31m\u202eb\x07"


def test_control_characters_are_escaped_as_json_writes_them() -> None:
    assert printable("é × 犬 a\u200db") == "é × 犬 a\u200db"
    assert printable(HOSTILE) == "a\\u001b[2J\\u009b31m\\u202eb\\u0007"
    assert printable("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\u000d"
    assert printable(b"\xff.mp4".decode("utf-8", "surrogateescape")) == "\\udcff.mp4"
    assert json.loads(printable(json.dumps("\x7f\x9b\x1b", ensure_ascii=False))) == "\x7f\x9b\x1b"
    assert Text.from_markup(escape(f"[red]{CLEAR}")).plain == "[red]\\u001b[2J"


@pytest.fixture
def hostile_bundle(bundle_copy: Path) -> Path:
    """A sound bundle whose name, labels, ids, file names and figures carry escape sequences."""
    folder = with_golden(bundle_copy).folder
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["name"] = HOSTILE
    for engine in (*manifest["purifiers"], *manifest["classifiers"]):
        engine["id"] += CLEAR
        for file in engine["onnx"].values():
            path = folder / file["file"]
            file["file"] += CLEAR
            path.rename(folder / file["file"])
    manifest["measured"] = [{"budget": HOSTILE, "ladder": {HOSTILE: {"share": HOSTILE, "images": HOSTILE}}}]
    manifest["provenance"] = {"config": {"name": HOSTILE}, "ancestors": {HOSTILE: {}}, "data": HOSTILE}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    labels = folder / manifest["labels"]["file"]
    labels.write_text("".join(f"{label}{HOSTILE}\n" for label in labels.read_text().splitlines()))
    (folder / f"stray{CLEAR}").touch()
    rehash(folder)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "BUNDLE"],
        ["inspect", "BUNDLE", "--json"],
        ["doctor", "--selftest", "--bundle", "BUNDLE"],
        ["doctor", "--json", "--bundle", "BUNDLE"],
        ["benchmark", "--bundle", "BUNDLE", "--frames", "3", "--size", "64x48", "--only", "stages"],
        ["--source", "CLIP", "--bundle", "BUNDLE", "-v"],
        ["--source", "CLIP", "--bundle", "BUNDLE", "--json", "-"],
        ["--source", f"nowhere{CLEAR}.mp4", "--bundle", "BUNDLE"],
        [f"weave{CLEAR}"],
        ["--save", f"nowhere{CLEAR}/x.mp4", "--source", "CLIP", "--bundle", "BUNDLE"],
        ["--config", f"nowhere{CLEAR}"],
    ],
)
def test_no_escape_sequence_reaches_the_terminal(
    arguments: list[str], hostile_bundle: Path, clip: Path, edge_purify: Callable[..., Output]
) -> None:
    hostile_clip = clip.with_name(f"clip{CLEAR}.mp4")
    shutil.copyfile(clip, hostile_clip)
    names = {"BUNDLE": str(hostile_bundle), "CLIP": str(hostile_clip)}
    _, out, err = edge_purify(*(names.get(word, word) for word in arguments))
    shown = out + "\n".join(err)
    assert "\\u001b" in shown or "\\x1b" in shown, "something of it is shown"
    assert not [character for character in "\x1b\x9b\u202e\x07" if character in shown]
