"""The command ``edge-export``: write, lower, verify and sign bundles, and build their engines."""

from __future__ import annotations

import click

from export.cli.bundle import bundle_command
from export.cli.engines import engines_command
from export.cli.precision import precision_command
from export.cli.sign import sign_command
from export.cli.triton import triton_command
from export.cli.verify import verify_command
from sdk.cli.app import App


@click.group(cls=App, name="edge-export")
@click.version_option(package_name="edge-purify", prog_name="edge-export")
def main() -> None:
    """Export trained defences as bundles, and verify bundles.

    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 a gate not met, 130 stopped by a signal.
    """


main.add_command(engines_command)
main.add_command(bundle_command)
main.add_command(precision_command)
main.add_command(verify_command)
main.add_command(sign_command)
main.add_command(triton_command)
