"""The command ``edge-export precision``: add lower precisions to a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from export.cli import options
from export.cli.console import progress, require, show
from sdk.host.terminal import echo


@click.command("precision")
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--precision", default="fp16,int8", show_default=True, help="Those to add or to make again.")
@options.data_options
@options.images_option
@options.report_option
@options.json_option
def precision_command(
    folder: Path,
    precision: str,
    data: Path | None,
    dataset: str | None,
    accuracy_images: int,
    attacked: Path | None,
    images: int,
    report: Path | None,
    as_json: bool,
) -> None:
    """Add FP16 or INT8 engines to BUNDLE, made from its FP32 engines and held to them.

    All of them are added, verified, or BUNDLE stays as it was. A signature of BUNDLE is removed.
    """
    require("precision", *options.TOOLS)
    from export.bundle.add_precisions import lower_bundle
    from export.checks.report import check_report
    from sdk.bundle import Bundle
    from sdk.bundle.signature import sign_again

    folder = options.absolute(folder)
    lowering = options.lowering(
        precision, data=data, dataset=dataset, accuracy_images=accuracy_images, attacked=attacked
    )
    if report is not None:
        check_report(report, replaces=folder)
    before = Bundle.open(folder)
    manifest, was_signed = before.manifest, before.has_signature
    with progress(lowering.steps(len(manifest.purifiers) + len(manifest.classifiers))) as on_step:
        outcome = lower_bundle(folder, lowering, n_images=images, report=report, on_step=on_step)
    after = Bundle.open(folder)
    show(after, outcome, as_json)
    if was_signed and not after.has_signature:
        echo(f"edge-export: {sign_again(after.folder)}", err=True)
