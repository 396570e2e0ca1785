"""The demo's table and video: frames clean, blind-attacked and adaptively attacked, undefended and purified.

    python samples/compare.py [--bundle DIR] [--out out/cat-compared.mp4]

What is attacked, and by whom, is in ``samples/make_attacked.py``.  Needs the runtime alone.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np

from sdk import EdgePurifyError, Purifier, Result, Undefended, open_source

CLIPS = Path(__file__).parent / "clips"
TRUTH = "cat"
ATTACKS = {
    "clean": "not attacked",
    "blind": "attacked without knowledge of the purifier",
    "adaptive": "attacked with full knowledge of everything but the draws",
}
PANEL = 256  # side of a panel, in pixels
GREEN, RED, WHITE = (90, 200, 90), (80, 80, 240), (240, 240, 240)

Row = list[tuple[np.ndarray, Undefended, Result]]  # a frame of each clip, and the two verdicts on it


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="The default bundle if not given.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out/cat-compared.mp4"), show_default=True
)
def main(bundle: Path | None, out: Path) -> None:
    """Print both verdicts for every frame of the three clips, and write a video of them side by side."""
    try:
        rows = judge(bundle)
    except EdgePurifyError as error:
        raise click.ClickException(str(error)) from None
    print_table(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_video(out, rows)
    click.echo(f"wrote {out}")


def judge(bundle: Path | None) -> list[Row]:
    """Both verdicts on every frame of every clip."""
    with Purifier.load(bundle) as purifier:
        columns = []
        for name in ATTACKS:
            with open_source(CLIPS / f"cat-{name}.avi") as frames:
                columns.append([(f.image, purifier.undefended(f.image), purifier(f.image)) for f in frames])
    return [list(row) for row in zip(*columns, strict=True)]


def print_table(rows: list[Row]) -> None:
    """A line a frame, and a summary that says what each column is."""
    click.echo("frame " + "".join(f"  {name + ': undefended':<22} {'purified by':<26}" for name in ATTACKS))
    for index, row in enumerate(rows):
        cells = []
        for _, undefended, result in row:
            drawn = f"{result.label} {result.score:.2f} {result.draw.purifier_id}"
            cells.append(f"  {undefended.label + f' {undefended.score:.2f}':<22} {drawn:<26}")
        click.echo(f"{index:>5} " + "".join(cells))
    click.echo()
    for column, (name, meaning) in enumerate(ATTACKS.items()):
        verdicts = [row[column] for row in rows]
        undefended = sum(verdict[1].label == TRUTH for verdict in verdicts)
        purified = sum(verdict[2].label == TRUTH for verdict in verdicts)
        right = f"undefended right on {undefended}, purified right on {purified} of {len(rows)}"
        click.echo(f"{name:>9}: {right} ({meaning})")


def write_video(path: Path, rows: list[Row]) -> None:
    """One panel a clip: the frame, and below it both verdicts, green where right."""
    size = (PANEL * len(ATTACKS), PANEL + 72)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 8, size)
    for row in rows:
        video.write(np.hstack([panel(name, *verdicts) for name, verdicts in zip(ATTACKS, row, strict=True)]))
    video.release()


def panel(name: str, frame: np.ndarray, undefended: Undefended, result: Result) -> np.ndarray:
    """(PANEL + 72, PANEL, 3) BGR."""
    picture = cv2.resize(frame, (PANEL, PANEL), interpolation=cv2.INTER_NEAREST)
    canvas = np.full((PANEL + 72, PANEL, 3), 24, np.uint8)
    canvas[:PANEL] = picture
    write(canvas, name, 18, WHITE)
    for line, (who, verdict) in enumerate((("undefended", undefended), ("purified", result))):
        write(canvas, f"{who}: {verdict.label} {verdict.score:.2f}", 40 + 22 * line, _color(verdict.label))
    return canvas


def write(canvas: np.ndarray, text: str, y: int, color: tuple[int, int, int]) -> None:
    """One line of text, ``y`` pixels below the picture."""
    cv2.putText(canvas, text, (8, PANEL + y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)


def _color(label: str | None) -> tuple[int, int, int]:
    return GREEN if label == TRUTH else RED


if __name__ == "__main__":
    main()
