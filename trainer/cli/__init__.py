"""``edge-train``: fetch a data set, fit a config, time it, ablate it, measure a checkpoint or a bundle.

Exit codes: 0 done; 1 the work failed; 2 wrong usage; 3 a gate not met; 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.app import App, Stopped, given, is_first_process
from sdk.errors import UsageError
from sdk.host.terminal import echo
from trainer.cli.console import Line, bars
from trainer.cli.soften import soften

if TYPE_CHECKING:
    from trainer.loop.progress import Progress


@click.group(cls=App, name="edge-train", torchrun=True)
@click.version_option(package_name="edge-purify")
def main() -> None:
    """Train purifiers and classifiers, and measure their robustness."""


main.add_command(soften)


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for checkpoints; runs/NAME by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, exactly where it stopped.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key, as section.key.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all by default.")
def fit(
    config: Path, data: Path, out: Path | None, resume: bool, overrides: tuple[str, ...], threads: int | None
) -> None:
    """Train CONFIG, a TOML file; those of this project lie in trainer/configs/."""
    from trainer.config import load

    loaded = load(config, overrides)  # before the heavy imports: a mistake in it is told at once
    import torch

    from trainer.data import open_configured
    from trainer.data.attack_bank import split_for
    from trainer.loop.fit import fit as run
    from trainer.loop.tensorboard import Board

    if threads:
        torch.set_num_threads(threads)
    images = open_configured(loaded.data, data, "train", image_size=loaded.model.image_size)
    training, validation = split_for(loaded.recipe, images, loaded.data.validation)
    out = out or Path("runs") / loaded.name
    line = Line()
    with Board(out / "tensorboard") as board:

        def report(progress: Progress) -> None:
            line(progress)
            board(progress)

        try:
            best = run(loaded, training, validation, out, resume=resume, report=report)
        except KeyboardInterrupt:
            raise Stopped(_how_to_go_on(out)) from None
    if is_first_process():
        echo(f"wrote {best}")


@main.command()
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
    from trainer.data import open_configured
    from trainer.data.attack_bank import split_for

    if threads:
        torch.set_num_threads(threads)
    if data is None:
        training = bench.synthetic(loaded)
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


@main.command()
@click.argument("name", type=click.Choice(["cifar10", "svhn", "gtsrb", "imagenet", "folders"]))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder to put the data set into.")
@click.option("--url", metavar="ADDRESS", help="Mirror: the address that the published files lie under.")
def data(name: str, to: Path, url: str | None) -> None:
    """Fetch the data set NAME, unless it is there, and check every image of it.

    A download that was cut goes on where it stopped.  Without a network, put the published file into the
    folder and run this. The others are checked, not fetched; 'folders' and 'imagenet' stand for any pictures
    in folders train/CLASS and test/CLASS (or val/CLASS), or CLASS alone.
    """
    from trainer.data import check
    from trainer.data.download import fetch

    with bars() as on_progress:
        fetch(name, to, url=url, on_progress=on_progress)
        found = check(name, to, on_progress=on_progress)
    counts = " and ".join(f"{count} {split} images" for split, count in found.images.items())
    echo(f"{name} in {to}: {counts} of {found.n_classes} classes, all readable")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write, .npz.")
@click.option("--eps", default="8/255", show_default=True, help="Size of the perturbation; white is 1.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Of PGD.")
@click.option("--trust-code", is_flag=True, help="Import the classifier code that CHECKPOINT names.")
def bank(checkpoint: Path, data: Path, out: Path, eps: str, steps: int, trust_code: bool) -> None:
    """Attack every training image once, through CHECKPOINT's classifier alone, and keep the perturbations.

    MAEP trains on them: its config names the file as recipe.bank.
    """
    from trainer.checkpoint import load_defence
    from trainer.cli.evaluate import parse_eps
    from trainer.data import DataError, Images, open_dataset
    from trainer.data.attack_bank import check_writable, make

    check_writable(out)  # before the work
    loaded = load_defence(checkpoint, trust_code=trust_code)
    name = loaded.config["data"]["name"]
    images = open_dataset(name, data, "train", image_size=loaded.image_size)
    if not isinstance(images, Images):
        raise DataError(f"{name}: a bank is for images in memory; leave recipe.bank out for folders")
    with bars() as on_progress:
        made = make(
            loaded.defence,
            images,
            eps=parse_eps(eps),
            steps=steps,
            on_batch=lambda done: on_progress("attacked", done, len(images)),
        )
    made.save(out)
    echo(f"wrote {out}")


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Runs of each arm.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads a run."
)
@click.option("--images", type=click.IntRange(min=2), default=2000, show_default=True,
              help="Test images to evaluate on, from the first.")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path), help="Markdown; OUT/ablation.md by default.")
def ablate(config: Path, out: Path, seeds: int, report: Path | None, **options: Any) -> None:
    """Train CONFIG, a REN, as it is and without each of its mechanisms, and compare what attacks leave.

    A run that is finished is not repeated; one that was killed goes on where it stopped.
    """
    from trainer.ablation.arms import plan

    variants = plan(config, seeds=seeds)  # before the heavy imports: a mistake in it is told at once
    from trainer.cli.ablate import ablate as run

    report = report or out / "ablation.md"

    def tell(line: str) -> None:
        echo(line, err=True)

    run(variants, config=config, out=out, report=report, tell=tell, **options)
    echo(f"wrote {report}")


@main.command()
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
@click.option("--eps", help="Size of the perturbation; white is 1.  By default 8/255, of l2 128/255.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of attacks and draws."
)
@click.option("--against", type=click.Path(path_type=Path), help="Another one, on the same images.")
@click.option("--backend", default="auto", show_default=True, help="What runs a bundle's engines.")
@click.option("--precision", default="fp32", show_default=True, help="The engines' precision.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the outcome as JSON.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for JSON, Markdown and plots.")
@click.option("--into-bundle", is_flag=True, help="Add the figures to TARGET's bundle.json and model card.")
@click.option("--record", is_flag=False, flag_value="", metavar="[PATH]",
              help="Keep the perturbations for --gate, in a file or inside TARGET's bundle.")  # fmt: skip
@click.option("--gate", is_flag=False, flag_value="", metavar="[PATH]",
              help="Only judge anew what --record kept; exit with 3 if a point is lost.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/evaluate"), show_default=True,
              help="Where finished batches are kept, so that a killed evaluation goes on.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the attacks; all by default.")
@click.option("--trust-code", is_flag=True, help="Import the classifier code that a checkpoint names.")
def evaluate(
    target: Path,
    data: Path | None,
    gate: str | None,
    json_path: Path | None,
    report: Path | None,
    record: str | None,
    into_bundle: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Measure what attacks leave of TARGET, a bundle's folder or a checkpoint.

    A bundle is attacked through its twin and judged on its engines.  The figure to quote, the per-image
    worst, comes first, and a warning before it where an attack may have been too weak.
    """
    import torch

    from trainer.cli.evaluate import Outputs, Request, check_gate, hold_gate, run
    from trainer.robustness.results.markdown import render

    if threads:
        torch.set_num_threads(threads)
    with bars() as on_progress:
        if data is None:
            raise UsageError("--data: missing; name the folder with the data set")
        request = Request(target=target, data=data, **options)
        if gate is not None:
            check_gate(given())
            text = "\n".join(map(str, hold_gate(request, gate, on_progress, json=json_path)))
        else:
            outputs = Outputs(json_path, report, record, into_bundle)
            text = render(run(request, outputs, on_progress))
    echo(text)


def _how_to_go_on(out: Path) -> str:
    """What a stopped run in ``out`` left; a save is whole or not there, so the last one is what there is."""
    from trainer import checkpoint

    last = out / "last.pt"
    if not last.exists():
        return f"nothing was saved yet, so nothing of {out} is left to go on from"
    step = checkpoint.load(last)["position"]["step"]
    return f"with --resume the run goes on from {last}, step {step}"
