"""The documentation's commands: each block runs here, is run by a test that it names, or says that it isn't.

The line above a fenced block of shell or Python says which:

    <!-- runs -->                              it is executed here, page by page, in a folder with a clip
    <!-- run by: test_name, test_name -->      a test elsewhere runs the same commands
    *Not executed here …*                      the reader is told
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import cv2
import pytest

import sdk

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
GENERATED = {"ablation.md", "training-log.md"}  # reports of runs: their commands are a record
BLOCK = re.compile(r"(?P<above>[^\n]*\n\n?)```(?P<language>sh|python)\n(?P<text>.*?)```", re.DOTALL)
COMMANDS = {
    "edge-purify": "sdk.cli",
    "edge-export": "export.cli",
    "edge-train": "trainer.cli",
    "edge-protect": "export.cli.protect",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, first line, language and text, and the line above it."""

    page: Path
    line: int
    language: str
    text: str
    above: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.above == "<!-- runs -->"

    @property
    def tests(self) -> list[str]:
        match = re.fullmatch(r"<!-- run by: (.*) -->", self.above)
        return [] if match is None else match[1].split(", ")


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")),
            match["language"],
            match["text"],
            match["above"].strip(),
        )
        for match in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES if page.name not in GENERATED for block in blocks(page)]
EXECUTED = [page for page in PAGES if any(block.runs for block in blocks(page))]


@cache
def names_of_tests() -> frozenset[str]:
    """Every test function of the project."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_every_block_is_found() -> None:
    fences = sum(
        len(re.findall(r"^```(?:sh|python)$", page.read_text(encoding="utf-8"), re.MULTILINE))
        for page in PAGES
        if page.name not in GENERATED
    )
    assert len(ALL) == fences > 20


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)
def test_a_block_runs_or_names_its_test_or_says_that_it_does_not(block: Block) -> None:
    assert block.runs or block.tests or block.above.startswith("*Not executed here"), block.above
    assert set(block.tests) <= names_of_tests()


def test_tests_that_pages_name_are_there() -> None:
    """Such as the threat model's."""
    for page in PAGES:
        named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
        assert named <= names_of_tests(), page.name


def command_lines() -> list[tuple[str, list[str]]]:
    """Every call of the three commands in a block, as words without comment."""
    lines = []
    for block in ALL:
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if block.language == "sh" else []
            if words[:1] and words[0] in COMMANDS:
                lines.append((f"{block.name} {line}", words))
    return lines


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in command_lines()])
def test_a_documented_command_has_its_sub_command_and_options(words: list[str]) -> None:
    command: click.Command = import_module(COMMANDS[words[0]]).main
    with click.Context(command) as context:
        rest = words[1:]
        if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(context, rest[0])
            assert found is not None, rest[0]
            command, rest = found, rest[1:]
        known = {name for parameter in command.get_params(context) for name in parameter.opts}
    assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader would have it: the samples, a clip and a picture; commands are on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in COMMANDS.items():
        call = f"import sys; sys.argv[0] = '{name}'; from {module} import main; main()"
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{call}" "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "samples").symlink_to(ROOT / "samples")
    shutil.copy(ROOT / "samples" / "clips" / "clean.avi", folder / "clip.mp4")
    capture = cv2.VideoCapture(str(folder / "clip.mp4"))
    cv2.imwrite(str(folder / "frame.png"), capture.read()[1])
    capture.release()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_blocks_run_in_the_order_of_their_page(page: Path, place: Path) -> None:
    for block in blocks(page):
        if block.runs:
            line = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euc"]
            done = subprocess.run([*line, block.text], cwd=place, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block.name}: {done.stderr}"
            assert done.stdout or done.stderr, f"{block.name}: said nothing"


def test_every_public_name_of_the_runtime_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: sdk\.(\w+)$", page, re.MULTILINE)) == set(sdk.__all__) - {"__version__"}


def test_conventions_that_are_shown_are_accepted() -> None:
    page = (ROOT / "docs" / "own-classifier.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| `(--(?:mean|layout)[^`]+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 4
    main: click.Group = import_module("export.cli").main
    command = main.get_command(click.Context(main), "bundle")
    assert command is not None
    known = {name for parameter in command.params for name in parameter.opts}
    for row in rows:
        words = row.split()
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert set(options) <= known
        for name in {"--mean", "--std"} & set(options):
            assert len([float(value) for value in options[name].split(",")]) == 3, row


def test_the_layout_names_every_package_and_nothing_else() -> None:
    page = (ROOT / "docs" / "how-it-is-built.md").read_text(encoding="utf-8")
    layout = page.partition("<!-- layout -->\n```\n")[2].partition("```")[0]
    named, top = set(), ""
    for line in layout.splitlines():
        word = line.split()[0]
        top = word if not line.startswith(" ") else top
        named.add(word if word == top else top + word)
    assert not [name for name in named if not (ROOT / name).exists()]
    packages = {
        f"{path.parent.relative_to(ROOT)}/"
        for package in ("sdk", "export", "trainer")
        for path in [*(ROOT / package).glob("__init__.py"), *(ROOT / package).glob("*/__init__.py")]
    }
    assert packages <= named
