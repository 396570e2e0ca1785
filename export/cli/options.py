"""Options shared by several commands of ``edge-export``, and the values they make together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from export.cli.console import require
from sdk.choices import BUNDLE_PRECISIONS
from sdk.cli.app import given
from sdk.errors import UsageError

if TYPE_CHECKING:
    from export.bundle.add_precisions import Lowering
    from export.inputs.labelled import Labelled
    from sdk.bundle import Bundle

Command = TypeVar("Command", bound=Callable[..., None])
NEED_DATA = ("dataset", "accuracy_images", "attacked")  # parameters that say more about --data
TOOLS = ("torch", "onnx", "onnxscript", "onnxslim", "safetensors")


def images_option(command: Command) -> Command:
    """``--images``."""
    return click.option(
        "--images",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="Images that every engine is compared with what it was made from on.",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")(
        command
    )


def report_option(command: Command) -> Command:
    """``--report``."""
    return click.option(
        "--report",
        type=click.Path(path_type=Path),
        help="Write everything measured to FILE.json, or FILE.xml as JUnit, whether the gates pass or not.",
    )(command)


def data_options(command: Command) -> Command:
    """``--data``, ``--dataset``, ``--accuracy-images``, ``--attacked``: images for lower precisions."""
    for option in reversed(
        (
            click.option(
                "--data",
                type=click.Path(path_type=Path),
                help="Folder of the data set: training images calibrate, test images measure accuracy. "
                "Without it, self-made pictures calibrate and accuracy is not measured.",
            ),
            click.option("--dataset", help="The data set's name.  [default: what the bundle was trained on]"),
            click.option(
                "--accuracy-images",
                type=click.IntRange(min=1),
                default=1000,
                show_default=True,
                help="Test images that the accuracy of lower precisions is measured on.",
            ),
            click.option(
                "--attacked",
                type=click.Path(path_type=Path),
                help="File of 'edge-train evaluate --record' on --data: measure the robust accuracy too.",
            ),
        )
    ):
        command = option(command)
    return command


def absolute(path: Path) -> Path:
    """``path`` as an absolute path, which stays valid when the working directory is replaced.

    Raises:
        UsageError: it is relative to a folder that is gone.
    """
    try:
        return path.absolute()
    except FileNotFoundError:
        raise UsageError(
            f"{path}: the folder that this runs in is gone", hint="change into it again"
        ) from None


def lowering(
    precision: str, *, data: Path | None, dataset: str | None, accuracy_images: int, attacked: Path | None
) -> Lowering:
    """The options as one value; FP32, which every bundle has, may be among the precisions.

    Raises:
        UsageError: a precision is unknown or named twice, or an option would have no effect.
    """
    from export.bundle.add_precisions import Lowering

    names = [name.strip() for name in precision.split(",")]
    known = BUNDLE_PRECISIONS
    if len(set(names)) != len(names) or not set(names) <= set(known):
        raise UsageError(f"--precision {precision}: expected some of {','.join(known)}, each once")
    chosen = tuple(name for name in known if name in names and name != "fp32")
    if not chosen and (idle := given("data", *NEED_DATA)):
        raise UsageError(
            f"{idle[0]}: it calibrates and judges lower precisions, and --precision is {precision}",
            hint="add fp16 or int8 there, or leave it out",
        )
    _check_data(data)
    return Lowering(chosen, data=data, dataset=dataset, attacked=attacked, n_accuracy=accuracy_images)


def labelled(
    bundle: Bundle, *, data: Path | None, dataset: str | None, accuracy_images: int, attacked: Path | None
) -> tuple[Labelled, ...]:
    """The sets of labelled images that the options name, for ``bundle``.

    Raises:
        UsageError: an option would have no effect.
        EdgePurifyError: torch, which reads them, isn't installed.
    """
    _check_data(data)
    if data is None and attacked is None:
        return ()
    require("verify", "torch")
    from export.bundle.add_precisions import Lowering

    return (
        Lowering((), data=data, dataset=dataset, attacked=attacked, n_accuracy=accuracy_images)
        .pictures(bundle)
        .labelled
    )


def _check_data(data: Path | None) -> None:
    if data is None and (idle := given(*NEED_DATA)):
        raise UsageError(f"{idle[0]}: needs --data, the folder of the data set")
