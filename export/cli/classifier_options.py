"""Options that describe a user's classifier, shared by the commands that take one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdk.errors import UsageError

if TYPE_CHECKING:
    from export.external_classifier.classifier import ForeignClassifier

Command = TypeVar("Command", bound=Callable[..., None])
MAX_SIDE = 4096

#: The parameters that ``classifier_options`` adds.
NAMES = ("labels", "mean", "std", "layout", "color", "white", "scores", "output", "image_size")


def classifier_options(command: Command) -> Command:
    """``--labels`` and the conventions by which the classifier takes its image and gives its scores."""
    for option in reversed(
        (
            click.option("--labels", type=click.Path(path_type=Path), help="Its labels, one a line."),
            click.option(
                "--mean", default="0,0,0", show_default=True, help="What it subtracts from each channel."
            ),
            click.option(
                "--std", default="1,1,1", show_default=True, help="What it divides each channel by."
            ),
            click.option("--layout", type=click.Choice(["nchw", "nhwc"]), default="nchw", show_default=True),
            click.option("--color", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True),
            click.option(
                "--range",
                "white",
                type=click.Choice(["1", "255"]),
                default="1",
                show_default=True,
                help="Its value of white.",
            ),
            click.option(
                "--scores",
                type=click.Choice(["logits", "probabilities"]),
                help="What it gives.  [default: recognized; probabilities sum to 1]",
            ),
            click.option(
                "--output", metavar="NAME", help="The value that holds its scores, if it has several outputs."
            ),
            click.option(
                "--image-size", metavar="H,W", help="Its image's size, where the file leaves that open."
            ),
        )
    ):
        command = option(command)
    return command


def classifier_from(path: Path, given: Mapping[str, Any], *, option: str = "CLASSIFIER") -> ForeignClassifier:
    """The classifier in ``path``, as the options' values in ``given`` describe it.

    Args:
        option: that names it, for errors.

    Raises:
        UsageError: an option is impossible, or the file is no such classifier.
    """
    from export.external_classifier.classifier import ForeignClassifier, read_labels
    from export.external_classifier.conventions import Conventions

    if given["labels"] is None:
        raise UsageError(
            f"{option} {path}: no labels", hint="give its labels too, by --labels FILE, one a line"
        )
    numbers = _numbers("--mean", given["mean"]), _numbers("--std", given["std"])
    try:
        conventions = Conventions(
            *numbers,
            layout=given["layout"],
            color=given["color"],
            range=255 if given["white"] == "255" else 1,
        )
    except ValueError as error:
        raise UsageError(f"--mean, --std: {str(error).partition(': ')[2]}") from None
    return ForeignClassifier(
        path,
        read_labels(given["labels"]),
        conventions,
        image_size=_size(given["image_size"]),
        scores=given["scores"],
        output=given["output"],
    )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        height = width = 0
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise UsageError(
            f"--image-size {text}: expected height and width in pixels, up to {MAX_SIDE}, like 224,224"
        )
    return height, width


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: expected three numbers, like 0.485,0.456,0.406") from None
