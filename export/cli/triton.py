"""The command ``edge-export triton``: a bundle as a model repository of Triton Inference Server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from export.cli.options import json_option
from sdk.choices import BUNDLE_PRECISIONS, Precision
from sdk.errors import EdgePurifyError, UsageError
from sdk.host.terminal import echo

if TYPE_CHECKING:
    from sdk.bundle import Bundle


@click.command("triton")
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(BUNDLE_PRECISIONS),
    default="fp32",
    show_default=True,
    help="Of the engines.",
)
@click.option("--gpu", is_flag=True, help="ONNX Runtime runs them on the server's GPU.  [default: its CPU]")
@click.option(
    "--target",
    help="Take TensorRT engines instead, built or reused on this host: a target of 'edge-export engines'.",
)
@click.option(
    "--votes", type=click.IntRange(1, 64), default=1, show_default=True, help="Draws averaged for each image."
)
@click.option(
    "--name", help="Of the model that clients call, and the head of the others'.  [default: BUNDLE's]"
)
@click.option("--force", is_flag=True, help="Replace models of these names.")
@json_option
def triton_command(
    folder: Path,
    repository: Path,
    precision: Precision,
    gpu: bool,
    target: str | None,
    votes: int,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write BUNDLE into REPO, a model repository of Triton Inference Server.

    Each engine becomes a model, and one in Python, which clients call, draws and chains them. It takes images
    of the bundle's size, RGB in [0, 1], shape (N, 3, H, W), and gives probabilities and purified images.
    """
    import msgspec

    from export.triton.repository import Options, model_name, write_repository
    from sdk.bundle import Bundle

    bundle = Bundle.open(folder)
    options = Options(precision, "gpu" if gpu else "cpu", None, votes, name, force)
    model_name(bundle, options)  # before engines are built
    if target is not None:
        options = Options(precision, "gpu", _plans(bundle, target, precision), votes, name, force)
    try:
        models = write_repository(bundle, repository, options)
    except OSError as error:
        raise EdgePurifyError(
            f"{error.filename or repository}: can't be written: {error.strerror}",
            hint="choose another folder",
        ) from None
    if as_json:
        outcome = {
            "repository": str(repository),
            "model": models[-1],
            "models": models,
            "digest": bundle.digest,
        }
        echo(msgspec.json.encode(outcome).decode())
        return
    echo(f"{repository}: {len(models)} models; clients call {models[-1]}")
    echo(f"tritonserver --model-repository {repository}")


def _plans(bundle: Bundle, target: str, precision: Precision) -> Mapping[str, bytes]:
    """The plans of a bundle's engines, by id, as they were built for ``target``."""
    from export.tensorrt.devices import find_target
    from export.tensorrt.engines import build_engines
    from sdk.backends.plan_store import built_engines

    if find_target(target).backend != "tensorrt":
        raise UsageError(
            f"target {target}: Triton runs TensorRT's engines, not TensorRT-RTX's",
            hint="take a target of TensorRT, or leave --target out",
        )
    outcome = build_engines(bundle, target, precisions=[precision])
    plans = {}
    for provided in outcome.engines:
        found = built_engines(Path(outcome.folder), provided.engine, precision)
        (built,) = [each for each in found if str(each.plan) == provided.plan]
        plans[provided.engine] = built.read()
    return plans
