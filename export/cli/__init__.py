"""``edge-export``: checkpoints to bundles, and bundles put to the proof."""

from __future__ import annotations

from typing import Any

import click

from export.cli.bundle import bundle_command
from export.cli.engines import engines_command
from export.cli.precision import precision_command
from export.cli.sign import sign_command
from export.cli.verify import verify_command
from sdk.errors import EdgePurifyError

INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended


class _Group(click.Group):
    """Turns every error of ours into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgePurifyError as error:
            click.echo(f"edge-export: error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("edge-export: interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-purify", prog_name="edge-export")
def main() -> None:
    """Export trained defences as bundles, and verify bundles.

    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 a gate not met, 130 interrupted.
    """


main.add_command(engines_command)
main.add_command(bundle_command)
main.add_command(precision_command)
main.add_command(verify_command)
main.add_command(sign_command)
