"""Write the figures into README and documentation, so that each is kept in one place.

    python docs/scripts/figures.py [--check]

Accuracies come from what the default bundle's manifest says was measured and from docs/reports/; the rest
from docs/figures.json.
Each table replaces what stands between ``<!-- figures: NAME -->`` and ``<!-- figures: end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdk import Bundle, default_bundle

sys.path.insert(0, str(Path(__file__).parent))
import reports

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SPLICE = re.compile(r"(<!-- figures: (?!end)([\w-]+) -->\n).*?(<!-- figures: end -->)", re.DOTALL)

Rung = dict[str, Any]  # of a manifest's ladder: share, low, high in [0, 1], and the number of images


def main(arguments: list[str]) -> int:
    """Write every page, or with --check only name those that are out of date."""
    tables = render()
    stale = [page for page in PAGES if page.read_text(encoding="utf-8") != spliced(page, tables)]
    if "--check" in arguments:
        for page in stale:
            print(f"{page.relative_to(ROOT)}: figures are out of date; run 'make figures'", file=sys.stderr)
        return bool(stale)
    for page in stale:
        page.write_text(spliced(page, tables), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")
    return 0


def render() -> dict[str, str]:
    """Every table, by the name that its marker has."""
    figures = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
    bundle = Bundle.open(default_bundle())
    tables: dict[str, Callable[[dict[str, Any], Bundle], str]] = {
        "verdict": lambda figures, _: figures["default_bundle"]["verdict"],
        "headline": _headline,
        "ladder": _ladder,
        "bundle": _bundle,
        "suspicion": _suspicion,
        "runtime": _runtime,
        "reports": lambda *_: reports.summary(),
        "eps": lambda *_: reports.by_eps(),
        "coverage": lambda *_: reports.coverage(),
        "published": _published,
        "verified": lambda figures, _: _table(("part", "verified by"), figures["verified"]),
    }
    return {name: f"{table(figures, bundle)}\n" for name, table in tables.items()}


def default_ladder() -> dict[str, Rung]:
    """The default bundle's ladder, as the standard budget measured it."""
    return _measured(Bundle.open(default_bundle()), "standard")


def spliced(page: Path, tables: dict[str, str]) -> str:
    """The page's text with every table in its place."""

    def fresh(match: re.Match[str]) -> str:
        return f"{match[1]}{tables[match[2]]}{match[3]}"

    return SPLICE.sub(fresh, page.read_text(encoding="utf-8"))


def _headline(figures: dict[str, Any], bundle: Bundle) -> str:
    """The few figures that the README shows."""
    ladder = _measured(bundle, "standard")
    clean = _measured(bundle, "clean")["clean"]
    climbed = ("pgd-margin", "apgd-t") if "pgd-margin" in ladder else ("pgd",)
    names = [name for name in ("ordinary", "blind", *climbed, "autoattack", "square") if name in ladder]
    rows = [
        ("per-image worst: **the figure to quote**", ladder["per-image worst"]),
        ("no attack", clean),
        *((figures["attacks"].get(name, name), ladder[name]) for name in names),
    ]
    rows += [(row["name"], row) for row in figures["default_bundle"]["undefended"][-1:]]
    return _accuracies(rows)


def _ladder(figures: dict[str, Any], bundle: Bundle) -> str:
    ladder = _measured(bundle, "standard")
    rows = [(figures["attacks"].get(name, name), rung) for name, rung in ladder.items()]
    rows += [(f"for comparison: {row['name']}", row) for row in figures["default_bundle"]["undefended"]]
    return _accuracies(rows)


def _bundle(figures: dict[str, Any], bundle: Bundle) -> str:
    """What the figures are about, in a sentence."""
    manifest = bundle.manifest
    megabytes = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()) / 1e6
    return (
        f"Of the default bundle, `{manifest.name}`: {manifest.family.upper()}, "
        f"{figures['default_bundle']['training']}, {len(manifest.purifiers)} purifiers × "
        f"{len(manifest.classifiers)} classifiers, {megabytes:.0f} MB with FP32, FP16 and INT8 engines. "
        f"Measured on {figures['default_bundle']['data']}, through the exported engines in ONNX Runtime; "
        "intervals are Wilson's at 95 %."
    )


def _suspicion(figures: dict[str, Any], bundle: Bundle) -> str:
    default = figures["default_bundle"]
    return (
        f"What randomness adds, A_mix − mean A_d: {default['what_randomness_adds']}. "
        f"`--suspicion` as a detector: {default['suspicion']}. {default['int8_twin']} "
        f"The standard evaluation took {default['evaluation']}."
    )


def _runtime(figures: dict[str, Any], bundle: Bundle) -> str:
    runtime = figures["runtime"]
    return f"{_table(('ratio', 'measured', 'bound'), runtime['rows'])}\n\nMeasured on {runtime['machine']}."


def _published(figures: dict[str, Any], bundle: Bundle) -> str:
    """Other methods' figures as published, below a row of ours from the manifest."""
    worst = _measured(bundle, "standard")["per-image worst"]
    share, low, high = (f"{100 * worst[key]:.1f}" for key in ("share", "low", "high"))
    frame = figures["runtime"]["rows"][0][0].partition(" / ")[0]
    ours = (
        f"**this bundle**, `{bundle.manifest.name}`",
        f"CIFAR-10 in a JPEG copy, {worst['images']:,} images",
        "end to end, the strongest attack of the ladder on each image",
        f"**{share}** [{low}, {high}]",
        f"{100 * _measured(bundle, 'clean')['clean']['share']:.1f}",
        f"{frame}, {figures['runtime']['machine']}",
        "[above](#robustness)",
    )
    head = ("method", "data, classifier", "attack", "robust %", "clean %", "cost of an image", "source")
    return _table(head, [ours, *figures["published"]])


def _measured(bundle: Bundle, budget: str) -> dict[str, Rung]:
    """The ladder of the FP32 engines that was measured with ``budget``, linf."""
    for entry in bundle.manifest.measured:
        if (entry["budget"], entry["precision"], entry["norm"]) == (budget, "fp32", "linf"):
            ladder: dict[str, Rung] = entry["ladder"]
            return ladder
    raise SystemExit(f"{bundle.folder}: no ladder of budget {budget} is in bundle.json")


def _accuracies(rows: list[tuple[str, Rung]]) -> str:
    cells = []
    for name, rung in rows:
        share, low, high = (f"{100 * rung[key]:.1f}" for key in ("share", "low", "high"))
        cells.append((name, f"{share} % [{low}, {high}]", f"{rung['images']:,}"))
    return _table(("attack, ℓ∞ 8/255", "expected accuracy over fresh draws", "images"), cells)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
