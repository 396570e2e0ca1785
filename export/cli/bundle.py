"""The command ``edge-export bundle``: write a checkpoint, or purifiers around a classifier, as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from export.cli import options
from export.cli.classifier_options import NAMES, classifier_from, classifier_options
from export.cli.console import progress, require, show
from sdk.cli.app import given
from sdk.errors import UsageError
from sdk.host.terminal import echo

if TYPE_CHECKING:
    from trainer.checkpoint import Loaded


@click.command("bundle")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the bundle that is in OUT.")
@click.option("--name", help="The bundle's name.  [default: the training config's]")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="Engines to write, like fp32,fp16,int8; fp32 always is.",
)
@options.data_options
@click.option(
    "--classifier-onnx",
    type=click.Path(path_type=Path),
    help="Put this classifier behind the purifiers instead.",
)
@classifier_options
@click.option("--trust-code", is_flag=True, help="Import the classifier code that CHECKPOINT names.")
@options.images_option
@options.report_option
@options.json_option
def bundle_command(
    checkpoint: Path,
    out: Path,
    force: bool,
    name: str | None,
    precision: str,
    data: Path | None,
    dataset: str | None,
    accuracy_images: int,
    attacked: Path | None,
    classifier_onnx: Path | None,
    trust_code: bool,
    images: int,
    report: Path | None,
    as_json: bool,
    **of_the_classifier: Any,
) -> None:
    """Write the defence in CHECKPOINT as a bundle into the folder OUT.

    Every engine is compared with its torch twin first, and those of a lower precision with the FP32 engines;
    OUT appears whole and verified, or not at all.

    With --classifier-onnx, CHECKPOINT may be a bundle too: its purifiers are taken. --mean and --std are in
    the classifier's own range and order of channels.
    """
    require("bundle", *options.TOOLS)
    from export.bundle.write import write_bundle
    from export.checks.report import check_report
    from sdk.bundle import Bundle

    out = options.absolute(out)
    lowering = options.lowering(
        precision, data=data, dataset=dataset, accuracy_images=accuracy_images, attacked=attacked
    )
    if classifier_onnx is None and (idle := given(*NAMES)):
        raise UsageError(f"{idle[0]}: it describes the classifier of --classifier-onnx", hint="give that too")
    if report is not None:
        check_report(report, replaces=out)
    loaded = _load(checkpoint, classifier_onnx, trust_code=trust_code)
    foreign = None
    if classifier_onnx is not None:
        foreign = classifier_from(classifier_onnx, of_the_classifier, option="--classifier-onnx")
    n_engines = loaded.defence.n_purifiers + (1 if foreign else loaded.defence.n_classifiers)
    with progress(n_engines + 1 + lowering.steps(n_engines)) as on_step:
        outcome = write_bundle(
            loaded,
            out,
            name=name,
            force=force,
            foreign=foreign,
            n_images=images,
            lowering=lowering,
            report=report,
            on_step=on_step,
        )
    for note in foreign.notes if foreign else ():
        echo(f"{classifier_onnx}: {note}", err=True)
    show(Bundle.open(out), outcome, as_json)


def _load(checkpoint: Path, classifier_onnx: Path | None, *, trust_code: bool) -> Loaded:
    from trainer.checkpoint import Loaded, load_defence

    if not checkpoint.is_dir():
        return load_defence(checkpoint, trust_code=trust_code)
    if classifier_onnx is None:
        raise UsageError(
            f"CHECKPOINT {checkpoint}: it is a folder",
            hint="give a checkpoint's file, or --classifier-onnx with a bundle",
        )
    from sdk.bundle import Bundle
    from trainer.models.twin import read_purifiers

    bundle = Bundle.open(checkpoint)
    defence, manifest = read_purifiers(bundle), bundle.manifest
    assert manifest.twin is not None  # read_purifiers refuses a bundle without one
    config = {"name": manifest.name, "model": manifest.twin.config}
    kept = {key: value for key, value in manifest.provenance.items() if key not in ("export", "precisions")}
    return Loaded(defence, config, bundle.labels, kept)
