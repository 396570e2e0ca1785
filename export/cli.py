"""``edge-export``: checkpoints to bundles, and bundles put to the proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.errors import EdgePurifyError

if TYPE_CHECKING:
    from export.verify import Verification
    from sdk.bundle import Bundle

INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended
TOOLS = ("torch", "onnx", "onnxscript", "onnxslim", "safetensors")


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


def _images_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--images",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="Images that every engine is compared with its torch twin on.",
    )(command)


def _json_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")(
        command
    )


@main.command("bundle")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the bundle that is in OUT.")
@click.option("--name", help="The bundle's name.  [default: the training config's]")
@_images_option
@_json_option
def bundle_command(
    checkpoint: Path, out: Path, force: bool, name: str | None, images: int, as_json: bool
) -> None:
    """Write the defence in CHECKPOINT as a bundle into the folder OUT.

    Every engine is compared with its torch twin first; OUT appears whole and verified, or not at all.
    """
    _require_tools()
    from export.writer import write_bundle
    from sdk.bundle import Bundle
    from trainer.checkpoint import load_defence

    loaded = load_defence(checkpoint)
    steps = loaded.defence.n_purifiers + loaded.defence.n_classifiers + 2
    with _progress(steps) as on_step:
        outcome = write_bundle(loaded, out, name=name, force=force, n_images=images, on_step=on_step)
    _report(Bundle.open(out), outcome, as_json)


@main.command("verify")
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@_images_option
@_json_option
def verify_command(folder: Path, images: int, as_json: bool) -> None:
    """Check BUNDLE: its files' hashes, its golden outputs, and every engine against its torch twin.

    The twin needs torch; where that isn't installed, the golden outputs are what engines are held to.
    """
    from export.verify import verify
    from sdk.bundle import Bundle

    bundle = Bundle.open(folder)
    _report(bundle, verify(bundle, n_images=images), as_json)


def _require_tools() -> None:
    missing = [tool for tool in TOOLS if find_spec(tool) is None]
    if missing:
        raise EdgePurifyError(
            f"edge-export bundle: {', '.join(missing)} not installed; pip install 'edge-purify[export]'"
        )


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("export", total=steps)
        begun = iter(range(steps))
        yield lambda step: bar.update(task, description=step, completed=next(begun))


def _report(bundle: Bundle, outcome: Verification, as_json: bool) -> None:
    size_bytes = sum(bundle.path(file).stat().st_size for file in bundle.manifest.files())
    if as_json:
        import msgspec

        fields = {"bundle": bundle.manifest.name, "digest": bundle.digest, "size_bytes": size_bytes}
        click.echo(msgspec.json.encode(fields | msgspec.to_builtins(outcome)))
        return
    for found in outcome.deviations:
        off = f"{found.max_abs:.1e} off the {found.against} over {found.n_draws} draws"
        click.echo(f"{found.engine:<14} {found.output:<14} {off}")
    size = f"{size_bytes / 1e6:.1f} MB"
    click.echo(f"{bundle.folder}: {bundle.manifest.name}, {size}, verified through {outcome.backend}")
    if outcome.without_twin:
        click.echo(f"not compared with the torch twin: {outcome.without_twin}", err=True)


if __name__ == "__main__":
    main()
