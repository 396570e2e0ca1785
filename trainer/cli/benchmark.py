"""``edge-train benchmark``: throughput of a training loop."""

from __future__ import annotations

from pathlib import Path

import click

from sdk.cli.app import is_first_process
from sdk.host.terminal import echo
from trainer.cli.console import bars


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with the data set; random images by default."
)
@click.option("--seconds", type=click.FloatRange(min=0), default=60, show_default=True, help="How long.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key, as section.key.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all by default.")
@click.option("--variants", is_flag=True, help="Also other precisions, layouts, compiled, two processes.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--gate", is_flag=True, help="Exit with 3 if the loop is below its share of the bare rate.")
def benchmark(
    config: Path,
    data: Path | None,
    seconds: float,
    overrides: tuple[str, ...],
    threads: int | None,
    variants: bool,
    as_json: bool,
    gate: bool,
) -> None:
    """Time CONFIG's training loop against its forward and backward passes alone.

    With --variants, each of the two comparisons takes as long again.
    """
    from trainer.config import load

    loaded = load(config, overrides)
    import msgspec
    import torch
    from rich.console import Console

    from trainer import benchmark as bench
    from trainer.data import DataSet, open_configured
    from trainer.data.attack_bank import split_for

    if threads:
        torch.set_num_threads(threads)
    if data is None:
        training: DataSet = bench.synthetic(loaded)
    else:
        images = open_configured(loaded.data, data, "train", image_size=loaded.model.image_size)
        training, _ = split_for(loaded.recipe, images, loaded.data.validation)
    with bars() as on_progress:
        report = bench.run(loaded, training, seconds=seconds, on_progress=on_progress)
        if variants:
            from trainer.benchmark import variants as others

            found = others.ways(loaded, training, seconds=seconds, on_progress=on_progress)
            given = [f"--data={data}"] if data else []
            arguments = [str(config), *given, *(f"--set={override}" for override in overrides)]
            found += others.processes(arguments, seconds=seconds)
            report = msgspec.structs.replace(report, variants=found)
    if not is_first_process():
        return
    if as_json:
        echo(bench.as_json(report))
    else:
        Console(highlight=False).print(bench.render(report))
    if gate:
        bench.gate(report)
