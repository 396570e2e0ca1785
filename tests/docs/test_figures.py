"""Figures in README and documentation are those of the default bundle and of docs/figures.json."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from sdk import Bundle, default_bundle

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "scripts" / "figures.py"
SOURCE = re.compile(r"\[[^]]+\]\(https://(arxiv\.org/abs/\d{4}\.\d{5}|doi\.org/|openreview\.net/)")


def test_every_page_shows_the_present_figures() -> None:
    line = [sys.executable, str(SCRIPT), "--check"]
    checked = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_our_row_beside_published_figures_is_the_manifests() -> None:
    figures = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
    measured = copy.deepcopy(Bundle.open(default_bundle()).manifest.measured)
    for entry in measured:
        if (entry["budget"], entry["precision"]) == ("standard", "fp32"):
            entry["ladder"]["per-image worst"].update(share=0.123, low=0.101, high=0.145, images=77)
        if entry["budget"] == "clean":
            entry["ladder"]["clean"]["share"] = 0.678
    bundle = SimpleNamespace(manifest=SimpleNamespace(name="another", measured=measured))
    ours = script()._published(figures, bundle).splitlines()[2]
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert "`another`" in cells[0]
    assert "77 images" in cells[1]
    assert cells[3:5] == ["**12.3** [10.1, 14.5]", "67.8"]


def test_every_published_figure_has_its_attack_and_source() -> None:
    rows = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))["published"]
    assert len(rows) > 10
    for row in rows:
        method, data, attack, robust, clean, _, source = row
        assert all(row), method
        assert "—" not in (attack, data), method
        assert SOURCE.match(source), method
        for figure in (robust, clean):
            assert re.match(r"(—|\d+\.\d+( / \d+\.\d+)?$)", figure), f"{method}: {figure}"
