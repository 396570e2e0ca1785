"""Terminal output of ``edge-export``: progress, and the outcome of a verification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sdk.errors import EdgePurifyError
from sdk.host.terminal import echo, escape

if TYPE_CHECKING:
    from export.checks.outcome import Verification
    from sdk.bundle import Bundle


def require(command: str, *packages: str) -> None:
    """Check that the packages that ``command`` needs are installed.

    Raises:
        EdgePurifyError: naming those that are missing, and the extra that brings them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise EdgePurifyError(
            f"edge-export {command}: {', '.join(missing)} not installed",
            hint="pip install 'edge-purify[export]'",
        )


@contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A progress bar of ``steps`` on standard error, if that is a terminal.

    Call the function that it yields as each step begins, with the step's name.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("export", total=steps)
        begun = iter(range(steps))
        yield lambda step: bar.update(task, description=escape(step), completed=next(begun, steps))


def show(bundle: Bundle, outcome: Verification, as_json: bool) -> None:
    """Print the outcome of verifying ``bundle``."""
    size_bytes = sum(bundle.path(file).stat().st_size for file in bundle.manifest.files())
    if as_json:
        import msgspec

        fields = {"bundle": bundle.manifest.name, "digest": bundle.digest, "size_bytes": size_bytes}
        echo(msgspec.json.encode(fields | msgspec.to_builtins(outcome)).decode())
        return
    for found in outcome.deviations:
        off = f"{found.max_abs:.1e} off the {found.against} over {found.n_draws} draws"
        top1 = "" if found.top1 is None else f", the same class in {found.top1:.1%}"
        graph = found.precision if found.kind == "gpu" else f"{found.precision}/{found.kind}"
        echo(f"{found.engine:<14} {graph:<8} {found.output:<14} {off}{top1}")
    for drop in outcome.drops:
        echo(
            f"{drop.precision}: accuracy on {drop.n_images} {drop.says} images {drop.accuracy:.2f} %, "
            f"in fp32 {drop.fp32:.2f} %; at most {drop.upper:.2f} points lost (paired, 95 %)"
        )
    size = f"{size_bytes / 1e6:.1f} MB"
    echo(f"{bundle.folder}: {bundle.manifest.name}, {size}, verified through {outcome.backend}")
    if outcome.without_twin:
        echo(f"not compared with the torch twin: {outcome.without_twin}", err=True)
    if not outcome.drops and any(found.precision != "fp32" for found in outcome.deviations):
        echo("accuracy of the lower precisions: not measured; give --data", err=True)
