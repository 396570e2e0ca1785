"""``edge-train evaluate``: what attacks leave of a bundle or checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from sdk.choices import BACKENDS, PRECISIONS
from sdk.cli.app import given, is_first_process
from sdk.errors import UsageError
from sdk.host.terminal import echo
from trainer.cli.console import bars


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--dataset", help="Its name; by default the one that TARGET was trained on.")
@click.option(
    "--images", type=click.IntRange(min=1), help="Test images, from the first; by default the budget's."
)
@click.option("--draws", type=click.IntRange(min=1), help="Per image; by default the budget's.")
@click.option(
    "--budget",
    type=click.Choice(["clean", "quick", "standard", "paper"]),
    default="quick",
    show_default=True,
    help="How much to attack.",
)
@click.option("--norm", type=click.Choice(["linf", "l2"]), default="linf", show_default=True)
@click.option("--eps", help="Size of the perturbation; white is 1. By default 8/255, of l2 128/255.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of attacks and draws."
)
@click.option("--against", type=click.Path(path_type=Path), help="Another one, on the same images.")
@click.option("--ordinary", type=click.Path(path_type=Path), metavar="PATH",
              help="A bundle or checkpoint: show TARGET attacks on its classifiers.")  # fmt: skip
@click.option("--backend", default="auto", show_default=True, type=click.Choice(BACKENDS),
              help="What runs a bundle's engines.")  # fmt: skip
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(PRECISIONS),
              help="The engines' precision.")  # fmt: skip
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the outcome as JSON.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for JSON, Markdown and plots.")
@click.option("--into-bundle", is_flag=True, help="Add the figures to TARGET's bundle.json and model card.")
@click.option("--record", is_flag=False, flag_value="", metavar="[PATH]",
              help="Keep the perturbations for --gate, in a file or inside TARGET's bundle.")  # fmt: skip
@click.option("--gate", is_flag=False, flag_value="", metavar="[PATH]",
              help="Only judge again what --record kept; exit with 3 if a point is lost.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/evaluate"), show_default=True,
              help="Where finished batches are kept, so that a killed evaluation goes on.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the attacks; all by default.")
@click.option("--trust-code", is_flag=True, help="Import the classifier code that a checkpoint names.")
def evaluate(
    target: Path,
    data: Path | None,
    dataset: str | None,
    images: int | None,
    draws: int | None,
    budget: str,
    norm: Literal["linf", "l2"],
    eps: str | None,
    seed: int,
    against: Path | None,
    ordinary: Path | None,
    backend: str,
    precision: str,
    json_path: Path | None,
    report: Path | None,
    into_bundle: bool,
    record: str | None,
    gate: str | None,
    work: Path,
    threads: int | None,
    trust_code: bool,
) -> None:
    """Measure what attacks leave of TARGET, a bundle's folder or a checkpoint.

    A bundle is attacked through its twin and judged on its engines. The figure to quote, the per-image
    worst, comes first, and a warning before it where an attack may have been too weak.

    Processes that torchrun starts share the images, on one machine or, where --work is on a common file
    system, several; the report is the one of a single process.
    """
    if data is None:
        raise UsageError("--data: missing", hint="name the folder with the data set")
    import torch

    from trainer.cli.evaluation import Outputs, Request, check_gate, hold_gate, run
    from trainer.robustness.results.markdown import render
    from trainer.team import refuse_torchrun

    if threads:
        torch.set_num_threads(threads)
    request = Request(
        target=target,
        data=data,
        dataset=dataset,
        images=images,
        draws=draws,
        budget=budget,
        norm=norm,
        eps=eps,
        seed=seed,
        against=against,
        ordinary=ordinary,
        backend=backend,
        precision=precision,
        work=work,
        trust_code=trust_code,
    )
    with bars() as on_progress:
        if gate is not None:
            check_gate(given())
            refuse_torchrun("--gate")
            text = "\n".join(map(str, hold_gate(request, gate, on_progress, json=json_path)))
        else:
            outputs = Outputs(json_path, report, record, into_bundle)
            text = render(run(request, outputs, on_progress))
    if is_first_process():
        echo(text)
