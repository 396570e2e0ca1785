"""The files that tell contributors how to work agree with what is run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_makefile_has_every_target_that_is_documented() -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    for page in (ROOT / "CONTRIBUTING.md", ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE))
        assert named <= targets, page.name


def test_pre_commit_runs_what_make_check_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    checked = {line.split()[0].replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()}
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["entry"].split()[0] for repo in config["repos"] for hook in repo["hooks"]}
    assert checked <= hooks
    assert ".venv/bin/python" in hooks  # which builds the documentation


def test_the_changelog_names_the_present_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert version in headings


@pytest.mark.parametrize("package", ["sdk", "export", "trainer"])
def test_a_package_has_its_type_marker(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_the_list_of_slow_tests_names_tests_that_are_there() -> None:
    names = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").split()
    there = {
        f"{path.name}::{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(set(names) & there) > 0.9 * len(names), "run 'make slow-tests'"
