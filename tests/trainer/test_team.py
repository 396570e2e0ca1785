"""Processes that share work: nothing is done twice or left out, and whoever is lost is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from sdk.errors import UsageError
from trainer import team as teams
from trainer.robustness.evaluation import work as works
from trainer.robustness.evaluation.store import Store
from trainer.robustness.evaluation.work import Piece, Work
from trainer.team import ALONE, Team, TeamError, _Several, open_team, refuse_torchrun, share_cpus

SIZE = 3


@pytest.fixture
def crew() -> Iterator[list[_Several]]:
    """Three that talk through one store, as processes do; here each has a thread."""
    store = HashStore()
    made = [_Several(store, rank, SIZE) for rank in range(SIZE)]
    yield made
    for each in made:
        each.close()


def all_at_once(crew: list[_Several], act: Callable[[Team], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(crew)) as pool:
        return list(pool.map(act, crew))


def test_each_place_goes_to_one_process(crew: list[_Several]) -> None:
    for count in (0, 1, 100):
        taken = all_at_once(crew, lambda team, count=count: list(team.claims(count)))
        assert sorted(place for places in taken for place in places) == list(range(count))
        assert all(places == sorted(places) for places in taken)
    assert list(ALONE.claims(3)) == [0, 1, 2]


def test_all_hear_what_each_has_to_say(crew: list[_Several]) -> None:
    said = all_at_once(crew, lambda team: team.gather([team.rank, 0.1]))
    assert said == [[[0, 0.1], [1, 0.1], [2, 0.1]]] * SIZE
    asked: list[int] = []

    def once() -> float:
        asked.append(1)
        return 1 / 3

    assert all_at_once(crew, lambda team: team.from_first(once)) == [1 / 3] * SIZE
    assert asked == [1]
    assert ALONE.gather("x") == ["x"]


def test_who_gives_no_sign_of_life_is_named(crew: list[_Several], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teams, "ALIVE_EVERY_S", 0.01)
    monkeypatch.setattr(teams, "LOST_AFTER_S", 0.05)
    crew[1].close()
    with pytest.raises(
        TeamError, match=r"process 1 of 3 can't be reached any more; the same command goes on"
    ):
        all_at_once([crew[0], crew[2]], lambda team: team.gather(None))


def numbers(count: int, made: list[int]) -> list[Piece]:
    def make(place: int) -> dict[str, torch.Tensor]:
        made.append(place)
        return {"number": torch.tensor(place)}

    return [Piece(f"piece-{place}", lambda place=place: make(place)) for place in range(count)]


def test_every_piece_is_done_once_and_known_to_all(crew: list[_Several], tmp_path: Path) -> None:
    made: list[int] = []
    pieces = numbers(10, made)

    def act(team: Team) -> tuple[list[int], float]:
        work = Work(Store(tmp_path, "key"), team)
        return [int(done["number"]) for done in work.do(pieces)], work.store.seconds_saved

    assert all_at_once(crew, act) == [(list(range(10)), 0.0)] * SIZE
    assert sorted(made) == list(range(10))
    again = all_at_once(crew[:1], lambda team: act(ALONE))  # another number of processes goes on with them
    assert again[0][0] == list(range(10))
    assert again[0][1] > 0
    assert len(made) == 10


def test_processes_that_work_on_different_things_are_told_so(crew: list[_Several], tmp_path: Path) -> None:
    def act(team: Team) -> None:
        Work(Store(tmp_path, "one" if team.rank else "other"), team).do(numbers(2, []))

    with pytest.raises(
        TeamError, match=r"works on something else than .*; give all of them the same command"
    ):
        all_at_once(crew, act)


def test_a_store_that_is_not_shared_is_told(
    crew: list[_Several], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(works, "VISIBLE_WITHIN_S", 0.0)

    def act(team: Team) -> None:
        Work(Store(tmp_path / str(team.rank), "key"), team).do(numbers(30, []))

    with pytest.raises(UsageError, match="doesn't appear there; name a folder that all machines share"):
        all_at_once(crew, act)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_team() as team:
        assert (team.rank, team.size) == (0, 1)
    refuse_torchrun("--gate")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--gate: expected one process; run the command without torchrun"):
        refuse_torchrun("--gate")


def test_variables_that_are_missing_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in teams.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        TeamError, match=r"the 2 processes don't find each other: .*RANK.*start them by torchrun"
    ):
        open_team().__enter__()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_each_process_of_a_machine_keeps_to_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 4, 5, 6})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cpus: given.append(set(cpus)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("LOCAL_RANK", rank)
        share_cpus()
    assert given == [{0, 1}, {4, 5, 6}]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")  # more than there are: nobody is bound
    share_cpus()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    share_cpus()
    assert len(given) == 2
