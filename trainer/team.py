"""Processes that share the work of one command: those that ``torchrun`` started, on one machine or several.

    with open_team() as team:
        for place in team.claims(len(pieces)):  # each place goes to one of the processes
            work_on(pieces[place])
        everybody_s = team.gather(result)  # returns when all of them have come this far

Pieces are handed out one by one, so a faster process does more of them; what a piece comes to must not depend
on who does it. The processes talk through ``torchrun``'s own key-value store. A wait there ends at once on a
signal, unlike one in a collective operation, which ``torchrun`` has to kill after half a minute.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from sdk.errors import EdgePurifyError, UsageError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # it is not in __all__

POLL_S = 0.02
ALIVE_EVERY_S = 5.0
LOST_AFTER_S = 120.0
JOIN_S = 300.0
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE",
             "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip
_LOCAL = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # with what they are without torchrun


class TeamError(EdgePurifyError):
    """Another process of the command ended, can't be reached, or works on something else."""


class Team:
    """One process on its own.

    Attributes:
        rank: the process's place among all, from 0.
        size: how many there are.
    """

    rank = 0
    size = 1

    def claims(self, count: int) -> Iterator[int]:
        """The places out of ``range(count)`` that are this process's, in rising order.

        All processes ask for the same claims in the same order.
        """
        yield from range(count)

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, which JSON can hold, by rank; returns when all have given theirs.

        Raises:
            TeamError: one of them ended.
        """
        return [value]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returns in the first process, which alone calls it, and JSON can hold.

        Raises:
            TeamError: the first process ended.
        """
        return self.gather(make() if self.rank == 0 else None)[0]


ALONE = Team()


@contextmanager
def open_team() -> Iterator[Team]:
    """The processes that ``torchrun`` started; without it, this one alone.

    Raises:
        TeamError: they don't find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_S)))
    except (RuntimeError, ValueError) as error:
        raise TeamError(
            f"the {os.environ['WORLD_SIZE']} processes don't find each other: {_first_line(error)}",
            hint="start them by torchrun",
        ) from None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # of a crew that torchrun started anew
    team = _Several(PrefixStore(f"edge-purify/{attempt}", store), rank, size)
    try:
        yield team
        team.leave()
    finally:
        team.close()


def share_cpus() -> None:
    """Keep to this process's share of the machine's CPUs, where there is one for each process that it runs.

    Otherwise the engines of every process would take threads for all CPUs.
    """
    local, size = (int(os.environ.get(name, default)) for name, default in _LOCAL.items())
    if size == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) >= size:
        os.sched_setaffinity(0, cpus[local * len(cpus) // size : (local + 1) * len(cpus) // size])


def refuse_torchrun(option: str) -> None:
    """Refuse to do in several processes what one does.

    Raises:
        UsageError: ``torchrun`` started several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"{option}: expected one process", hint="run the command without torchrun")


def forget_team() -> None:
    """Take ``torchrun``'s variables out of the environment: this process works for itself."""
    for name in VARIABLES:
        os.environ.pop(name, None)


class _Several(Team):
    """Processes with a common key-value store."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._asked = 0  # claims and gathers so far, alike in all processes
        self._closed = threading.Event()
        self._tell_alive(0)
        self._pulse = threading.Thread(target=self._beat, name="team", daemon=True)
        self._pulse.start()

    def claims(self, count: int) -> Iterator[int]:
        key = self._next_key()
        while True:
            with _told_if_gone():
                place = self._store.add(key, 1) - 1
            if place >= count:
                return
            yield place

    def gather(self, value: Any) -> list[Any]:
        key = self._next_key()
        with _told_if_gone():
            self._store.set(f"{key}/{self.rank}", msgspec.json.encode(value).decode())
            self._wait_for([f"{key}/{rank}" for rank in range(self.size)])
            return [msgspec.json.decode(self._store.get(f"{key}/{rank}")) for rank in range(self.size)]

    def leave(self) -> None:
        """Say goodbye; the first process, which may hold the store, waits for that of all others."""
        with _told_if_gone():
            self._store.set(f"bye/{self.rank}", "")
            if self.rank == 0:
                self._wait_for([f"bye/{rank}" for rank in range(self.size)])

    def close(self) -> None:
        self._closed.set()
        self._pulse.join(ALIVE_EVERY_S)

    def _next_key(self) -> str:
        self._asked += 1
        return str(self._asked)

    def _wait_for(self, keys: list[str]) -> None:
        """Until all of one key a rank are there.

        Raises:
            TeamError: a process whose key is missing has shown no sign of life for ``LOST_AFTER_S``.
        """
        seen: dict[int, tuple[bytes, float]] = {}
        looked = time.monotonic()
        while not self._store.check(keys):
            time.sleep(POLL_S)
            now = time.monotonic()
            if now - looked < ALIVE_EVERY_S:
                continue
            looked = now
            for rank in (rank for rank, key in enumerate(keys) if not self._store.check([key])):
                sign = self._store.get(f"alive/{rank}") if self._store.check([f"alive/{rank}"]) else b""
                before, since = seen.get(rank, (None, now))
                seen[rank] = (sign, now if sign != before else since)
                if now - seen[rank][1] > LOST_AFTER_S:
                    raise TeamError(
                        f"process {rank} of {self.size} can't be reached any more",
                        hint="the same command goes on from where it stopped",
                    )

    def _beat(self) -> None:
        count = 0
        while not self._closed.wait(ALIVE_EVERY_S):
            count += 1
            try:
                self._tell_alive(count)
            except RuntimeError:
                return  # the store is gone, which whoever waits for something finds out

    def _tell_alive(self, count: int) -> None:
        self._store.set(f"alive/{self.rank}", str(count))


@contextmanager
def _told_if_gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's own errors, such as of a connection that broke
        raise TeamError(
            f"the first process can't be reached any more: {_first_line(error)}",
            hint="the same command goes on from where it stopped",
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
