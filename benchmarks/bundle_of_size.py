"""A bundle's networks for images of another size, to time them there.

    python benchmarks/bundle_of_size.py SIZE OUT [--bundle DIR] [--maep [--overlap 8]]
    edge-purify benchmark --bundle OUT

The weights stay, and were trained for the old size: such a bundle is for a stopwatch, not for pictures. REN's
networks are convolutions and means over what is left; a MAEP purifies tiles of its training images' size.
``--maep`` puts one in place of the bundle's purifiers, untrained. Needs the ``[export]`` extra.
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
@click.option("--maep", is_flag=True, help="Time an untrained MAEP in tiles, in place of the purifiers.")
@click.option("--overlap", type=click.IntRange(0, 16), default=0, show_default=True, help="Of its tiles.")
def main(size: int, out: Path, bundle: str | None, maep: bool, overlap: int) -> None:
    """Write the bundle anew into OUT, for images of SIZE x SIZE pixels."""
    try:
        write_bundle(of_size(open_bundle(bundle), size, maep=maep, overlap=overlap), out)
    except EdgePurifyError as error:
        click.echo(f"bundle_of_size: error: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"wrote {out}: timing only, its weights were trained for another size")


def of_size(bundle: Bundle, size: int, *, maep: bool = False, overlap: int = 0) -> Loaded:
    """The bundle's defence for images of ``size`` x ``size``, as if it had been trained so.

    Args:
        maep: with an untrained MAEP in place of its purifiers.
        overlap: of a MAEP's tiles, in pixels.

    Raises:
        BundleError: it has no twin to take the weights from.
    """
    twin = read_twin(bundle)
    manifest = bundle.manifest
    assert manifest.twin is not None  # read_twin refuses a bundle without one
    config: dict[str, Any] = {**manifest.twin.config, "image_size": size}
    if maep and manifest.family != "maep":
        config |= {"family": "maep", "purifier": {}}
    if config["family"] == "maep":
        tile = config["purifier"].get("tile") or manifest.image.height
        config["purifier"] = {**config["purifier"], "tile": tile, "overlap": overlap}
    return Loaded(
        _resized(twin, config),
        {"name": f"{manifest.name}-{size}", "model": config},
        bundle.labels,
        {"weights_of": manifest.name, "trained_for": f"{manifest.image.width}x{manifest.image.height}"},
    )


def _resized(twin: Defence, config: dict[str, Any]) -> Defence:
    defence = models.build(msgspec.convert(config, Model))
    own = defence.state_dict()
    kept = {name: value for name, value in twin.state_dict().items() if name in own and name != OF_THE_SIZE}
    defence.load_state_dict({**own, **kept})
    return defence.eval()


if __name__ == "__main__":
    main()
