"""``edge-train render``: a report of ``evaluate`` as Markdown and plots, without measuring again."""

from __future__ import annotations

from pathlib import Path

import click

from sdk.errors import UsageError
from sdk.files import write_output
from sdk.given import read_given
from sdk.host.terminal import echo


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for Markdown and plots.")
def render(report: Path, out: Path) -> None:
    """Write REPORT, a report.json of 'edge-train evaluate', as report.md and plots into a folder.

    The plots are the ladder with its intervals and, where they were measured, accuracy by eps, suspicion's
    ROC and risk by coverage.
    """
    import msgspec

    from trainer.robustness.evaluation.report import from_json
    from trainer.robustness.results import markdown, plots

    try:
        found = from_json(read_given(report))
    except OSError as error:
        raise UsageError(f"{report}: can't be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{report}: not a report ({error})", hint="give a report.json of 'edge-train evaluate --report'"
        ) from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_output(out / "report.md", markdown.render(found).encode())
        drawn = plots.draw(found, {}, None, out)
    except OSError as error:
        raise UsageError(f"--out {out}: can't be written: {error.strerror}") from None
    echo(f"wrote report.md, {', '.join(path.name for path in drawn)} into {out}")
