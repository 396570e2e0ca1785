"""``edge-train bank``: perturbations of all training images, as an attack bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdk.cli.app import is_first_process
from sdk.host.terminal import echo
from trainer.cli.console import bars

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.attack_bank import Batch


@click.command()
@click.argument("source", metavar="CHECKPOINT|BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with the data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write, .npz.")
@click.option("--eps", default="8/255", show_default=True, help="Size of the perturbation; white is 1.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Of PGD.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/bank"), show_default=True,
              help="Where finished batches are kept until the bank is written.")  # fmt: skip
@click.option("--trust-code", is_flag=True, help="Import the classifier code that it names.")
def bank(source: Path, data: Path, out: Path, eps: str, steps: int, work: Path, trust_code: bool) -> None:
    """Attack every training image once, and keep the perturbations.

    The attack is on the classifiers of a checkpoint or bundle alone, blind to their purifiers. MAEP trains on
    them: its config names the file as recipe.bank. A killed command goes on where it stopped,
    and processes that torchrun starts share the images.
    """
    from trainer.cli.evaluation import parse_eps
    from trainer.data import open_as_trained
    from trainer.data.attack_bank import check_writable, digest_of, in_memory, make
    from trainer.robustness.evaluation.store import Store
    from trainer.robustness.evaluation.work import Piece, Work
    from trainer.team import open_team, share_cpus
    from trainer.trained import open_trained

    if is_first_process():
        check_writable(out)  # before the work
    trained = open_trained(source, trust_code=trust_code)
    images = in_memory(
        open_as_trained(
            trained.provenance, data, "train", image_size=trained.image_size, labels=trained.labels
        )
    )
    share_cpus()
    bound = parse_eps(eps)
    with open_team() as team, bars() as on_progress:
        store = Store(
            work, ("bank", trained.digest, digest_of(images), images.targets.tolist(), bound, steps)
        )

        def named(attack: Callable[[], Tensor]) -> dict[str, Tensor]:
            return {"perturbations": attack()}

        def do(batches: Sequence[Batch]) -> list[Tensor]:
            pieces = [Piece(f"bank-{start:07d}", partial(named, attack)) for start, attack in batches]
            return [done["perturbations"] for done in Work(store, team).do(pieces)]

        made = make(
            trained.defence,
            images,
            eps=bound,
            steps=steps,
            on_batch=lambda done: on_progress("attacked", done, len(images)),
            do=do,
        )
        if team.rank == 0:
            made.save(out)
        team.gather(None)  # all have read what they need of the store
        if team.rank == 0:
            store.remove()
            echo(f"wrote {out}")
