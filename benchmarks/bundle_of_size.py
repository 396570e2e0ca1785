"""A bundle's networks for images of another size, to time them there.

    python benchmarks/bundle_of_size.py SIZE OUT [--bundle DIR]
    edge-purify benchmark --bundle OUT

The weights stay, and were trained for the old size: such a bundle is for a stopwatch, not for pictures. Only
for REN, whose networks are convolutions and means over what is left. Needs the ``[export]`` extra.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from export.bundle.write import write_bundle
from sdk import EdgePurifyError
from sdk.benchmark.subject import open_bundle
from sdk.bundle import Bundle
from sdk.errors import UsageError
from trainer import models
from trainer.checkpoint import Loaded
from trainer.config import Model
from trainer.models.defence import Defence
from trainer.models.twin import read_twin

OF_THE_SIZE = "purifier.probe"  # where the power iteration starts, the one tensor with the images' shape


@click.command()
@click.argument("size", type=click.IntRange(8, 1024))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--bundle", metavar="DIR", help="Bundle folder.  [default: the one in the package]")
def main(size: int, out: Path, bundle: str | None) -> None:
    """Write the bundle anew into OUT, for images of SIZE x SIZE pixels."""
    try:
        write_bundle(of_size(open_bundle(bundle), size), out)
    except EdgePurifyError as error:
        click.echo(f"bundle_of_size: error: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"wrote {out}: timing only, its weights were trained for another size")


def of_size(bundle: Bundle, size: int) -> Loaded:
    """The bundle's defence for images of ``size`` x ``size``, as if it had been trained so.

    Raises:
        UsageError: it is no REN, or its purifier takes no images of that size.
        BundleError: it has no twin to take the weights from.
    """
    if bundle.manifest.family != "ren":
        raise UsageError(f"bundle {bundle.folder}: expected a ren, got a {bundle.manifest.family}")
    twin = read_twin(bundle)
    if size % twin.purifier.stride:
        raise UsageError(
            f"SIZE {size}: expected a multiple of {twin.purifier.stride}, the stride of the REN purifier"
        )
    assert bundle.manifest.twin is not None  # read_twin refuses a bundle without one
    config: dict[str, Any] = {**bundle.manifest.twin.config, "image_size": size}
    manifest = bundle.manifest
    return Loaded(
        _resized(twin, config),
        {"name": f"{manifest.name}-{size}", "model": config},
        bundle.labels,
        {"weights_of": manifest.name, "trained_for": f"{manifest.image.width}x{manifest.image.height}"},
    )


def _resized(twin: Defence, config: dict[str, Any]) -> Defence:
    defence = models.build(msgspec.convert(config, Model))
    kept = {name: value for name, value in twin.state_dict().items() if name != OF_THE_SIZE}
    defence.load_state_dict({**defence.state_dict(), **kept})
    return defence.eval()


if __name__ == "__main__":
    main()
