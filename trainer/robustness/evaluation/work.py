"""Pieces of an evaluation's work: each is done once, by one of the processes, and kept in the store.

What a piece comes to depends on its name and the store's key alone, so it doesn't matter which process does
it, how many there are, or whether an earlier run did.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdk.errors import UsageError
from trainer.robustness.defences.judges import DrawingJudge, Judge, Key
from trainer.robustness.evaluation.store import Store
from trainer.team import Team, TeamError

Tensors = dict[str, Tensor]

VISIBLE_WITHIN_S = 60.0  # a network's file system may show what another machine wrote only after a while
JUDGED = 16  # images at a time


def _nothing() -> None:
    """Nobody wants to hear of it."""


@dataclass(frozen=True)
class Piece:
    """One piece of work.

    Attributes:
        name: what its outcome is stored as; another outcome has another name.
        make: does it.
        before, after: called around it, in the process that does it or finds it done.
    """

    name: str
    make: Callable[[], Tensors]
    before: Callable[[], None] = _nothing
    after: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Work:
    """Does pieces of work.

    Attributes:
        store: where their outcomes are kept; one folder for all processes.
        team: the processes that share them. All of them ask for the same pieces in the same order.
    """

    store: Store
    team: Team

    def do(self, pieces: Sequence[Piece]) -> list[Tensors]:
        """What each of ``pieces`` came to, with the ``seconds`` that it took.

        Raises:
            TeamError: another process ended, or works on something else.
            UsageError: the store can't be written, or isn't one folder for all processes.
        """
        at_hand: dict[int, Tensors] = {}
        found: list[int] = []
        for place in self.team.claims(len(pieces)):
            piece = pieces[place]
            piece.before()
            done = self.store.load(piece.name)
            if done is None:
                done = self._make(piece)
            else:
                found.append(place)
            at_hand[place] = done
            piece.after()
        found_by_all = self._meet(pieces, found)
        outcomes = [
            at_hand[place] if place in at_hand else self._fetch(piece) for place, piece in enumerate(pieces)
        ]
        self.store.seconds_saved += sum(float(outcomes[place]["seconds"]) for place in found_by_all)
        return outcomes

    def _make(self, piece: Piece) -> Tensors:
        begun = time.perf_counter()
        made = piece.make()
        done = {**made, "seconds": torch.tensor(time.perf_counter() - begun)}
        self.store.save(piece.name, done)
        return done

    def _meet(self, pieces: Sequence[Piece], found: list[int]) -> list[int]:
        """Wait until all processes are done with their pieces; returns those that an earlier run did."""
        names = hashlib.sha256(repr([self.store.folder.name, *(piece.name for piece in pieces)]).encode())
        told = self.team.gather([names.hexdigest(), found])
        for rank, (digest, _) in enumerate(told):
            if digest != names.hexdigest():
                raise TeamError(
                    f"process {rank} of {self.team.size} works on something else than {self.team.rank}",
                    hint="give all of them the same command, files and versions of the libraries",
                )
        return [place for _, theirs in told for place in theirs]

    def _fetch(self, piece: Piece) -> Tensors:
        """What another process did."""
        deadline = time.monotonic() + VISIBLE_WITHIN_S
        while (done := self.store.load(piece.name)) is None:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"{self.store.root}: what another process finished doesn't appear there",
                    hint="name a folder that all machines share",
                )
            time.sleep(0.1)
        piece.after()
        return done


@dataclass(frozen=True)
class SharedJudge:
    """A judge whose answers the processes give together, some images each."""

    judge: Judge
    work: Work

    @property
    def says(self) -> str:
        return self.judge.says

    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        pieces = []
        for start in range(0, len(images), JUDGED):
            part, place = images[start : start + JUDGED], first + start

            def ask(part: Tensor = part, place: int = place) -> Tensors:
                return {"said": self.judge.probabilities(part, draws=draws, key=key, first=place)}

            pieces.append(Piece(piece_name("judged", part, draws, key, place), ask))
        return torch.cat([done["said"] for done in self.work.do(pieces)], dim=1)

    def raw_probabilities(self, images: Tensor) -> Tensor:
        pieces = []
        for part in torch.split(images, JUDGED):

            def ask(part: Tensor = part) -> Tensors:
                return {"said": self.judge.raw_probabilities(part)}

            pieces.append(Piece(piece_name("judged raw", part), ask))
        return torch.cat([done["said"] for done in self.work.do(pieces)], dim=1)


@dataclass(frozen=True)
class SharedDrawingJudge(SharedJudge):
    """The same of a judge that also says what it draws."""

    judge: DrawingJudge

    def drawn_classifiers(self, count: int, *, draws: int, key: Key) -> Tensor:
        return self.judge.drawn_classifiers(count, draws=draws, key=key)


def piece_name(what: str, images: Tensor, *made: object) -> str:
    """What a piece about ``images`` is stored as, where ``made`` is all else that decides its outcome."""
    held = hashlib.sha256(repr(made).encode())
    held.update(images.contiguous().numpy().tobytes())
    return f"{what}-{held.hexdigest()[:20]}"
