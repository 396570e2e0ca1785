"""The command ``edge-export verify``: check a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from export.cli import options
from export.cli.console import progress, show


@click.command("verify")
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@options.images_option
@options.data_options
@options.report_option
@options.json_option
def verify_command(
    folder: Path,
    images: int,
    data: Path | None,
    dataset: str | None,
    accuracy_images: int,
    attacked: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Check BUNDLE: its files' hashes, its golden outputs, and every engine against what it was made from.

    FP32 engines are held to the torch twin, lower precisions to the FP32 engines. The twin needs torch;
    where that isn't installed, engines are held to the golden outputs.
    """
    from export.checks.report import check_report
    from export.checks.verify import verify
    from sdk.bundle import Bundle

    if report is not None:
        check_report(report)
    bundle = Bundle.open(folder)
    labelled = options.labelled(
        bundle, data=data, dataset=dataset, accuracy_images=accuracy_images, attacked=attacked
    )
    with progress(1 + len(bundle.manifest.lower_precisions)) as on_step:
        outcome = verify(bundle, n_images=images, labelled=labelled, report=report, on_step=on_step)
    show(bundle, outcome, as_json)
