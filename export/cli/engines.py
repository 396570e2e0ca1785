"""The command ``edge-export engines``: build a bundle's TensorRT engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from export.tensorrt.devices import TARGETS
from sdk.host.terminal import echo, escape

if TYPE_CHECKING:
    from export.tensorrt.engines import Outcome


@click.command("engines")
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--target", required=True, help=f"One of {', '.join(TARGETS)}.")
@click.option("--precision", help="Those to build, like fp32,fp16.  [default: all that the bundle has]")
@click.option(
    "--workspace", type=click.IntRange(1, 1 << 20), help="Scratch memory in MiB.  [default: the target's]"
)
@click.option(
    "--profile", "profiles", multiple=True, help="A dynamic input's range of shapes, NAME=MIN:OPT:MAX."
)
@click.option(
    "--dla",
    type=click.IntRange(0, 1),
    help="Number of the deep-learning accelerator that runs what it can of the classifiers.  [default: none]",
)
@click.option(
    "--batch",
    type=click.IntRange(2, 256),
    help="Build for so many images at a time as well: regions of a frame share runs.  [default: none]",
)
@click.option("--device", type=click.IntRange(0, 255), help="Number of the GPU that builds.  [default: 0]")
@click.option("--dry-run", is_flag=True, help="Only print the commands of NVIDIA's tool that build the same.")
@click.option("--force", is_flag=True, help="Build even what could be reused.")
@click.option("--into-bundle", is_flag=True, help="Write into BUNDLE instead of the user's cache.")
@click.option("--key", is_flag=True, help="Only print a hash that names these engines, for a CI's cache.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
def engines_command(
    folder: Path,
    target: str,
    precision: str | None,
    workspace: int | None,
    profiles: tuple[str, ...],
    dla: int | None,
    device: int | None,
    batch: int | None,
    dry_run: bool,
    force: bool,
    into_bundle: bool,
    key: bool,
    as_json: bool,
) -> None:
    """Build the TensorRT engines of BUNDLE for a target, or reuse those that are up to date.

    TensorRT builds on the device that will run the engines, TensorRT-RTX (--target rtx) anywhere.
    """
    from export.tensorrt import engines, trtexec
    from export.tensorrt.build import Profile
    from export.tensorrt.devices import show_only
    from sdk.bundle import Bundle
    from sdk.bundle.signature import sign_again

    bundle = Bundle.open(folder)
    precisions = [] if precision is None else [name.strip() for name in precision.split(",")]
    shapes = tuple(map(Profile.parse, profiles))
    wanted: dict[str, Any] = {
        "precisions": precisions,
        "workspace_mib": workspace,
        "profiles": shapes,
        "dla": dla,
    }
    if dry_run:
        if batch is not None:
            raise click.UsageError(
                "--batch: NVIDIA's tools build the bundle's own files, which take one image"
            )
        for command in trtexec.dry_run(bundle, target, **wanted):
            echo(command)
        return
    wanted["batch"] = batch or 1
    if device is not None:
        show_only(device)
    if key:
        echo(engines.engines_key(bundle, target, **wanted))
        return
    was_signed = bundle.has_signature
    with _progress() as (on_step, on_phase):
        outcome = engines.build_engines(
            bundle,
            target,
            **wanted,
            force=force,
            into_bundle=into_bundle,
            on_step=on_step,
            on_phase=on_phase,
        )
    _report(outcome, as_json)
    if was_signed and not Bundle.open(folder).has_signature:
        echo(sign_again(folder), err=True)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[str], None]]]:
    """A progress bar on standard error, if that is a terminal: engines done, and TensorRT's current phase."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("engines", total=None, phase="")
        yield (
            lambda what, done, total: bar.update(
                task, description=escape(what), completed=done, total=total, phase=""
            ),
            lambda phase: bar.update(task, phase=escape(phase)),
        )


def _report(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        import msgspec

        echo(msgspec.json.encode(outcome).decode())
        return
    for engine in outcome.engines:
        how = f"built in {engine.build_s:.1f} s" if engine.built else "reused"
        times = f" x{engine.batch}" if engine.batch > 1 else ""
        echo(f"{engine.engine:<14} {engine.precision:<5}{times} {engine.size_bytes / 1e6:6.1f} MB  {how}")
    n_built = sum(engine.built for engine in outcome.engines)
    echo(
        f"{outcome.folder}: {len(outcome.engines)} engines for {outcome.target} "
        f"({outcome.backend} {outcome.version}), {n_built} of them built now"
    )
