"""Runs of the ablation as processes of their own, some at a time; what they tell arrives here, line by line.

A process that is ended, by a kill of itself or of this one, is gone on with by the next command.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from sdk.errors import EdgePurifyError
from sdk.host.children import safe_spawn
from trainer.ablation.report import figures
from trainer.ablation.single import Task, Tell, carry_out
from trainer.team import ALONE, Team, forget_team


class AblationError(EdgePurifyError):
    """A run of the ablation ended before it was done."""


def carry_out_all(tasks: Sequence[Task], *, jobs: int, tell: Tell, team: Team = ALONE) -> None:
    """Carry out the unfinished ``tasks``, ``jobs`` at a time in each process of ``team``.

    A failing one ends all.

    Raises:
        EdgePurifyError: what a run raised.
        AblationError: a run's process was killed, or crashed.
    """
    unfinished = team.from_first(
        lambda: [place for place, task in enumerate(tasks) if task.finished() is None]
    )
    if team.rank == 0 and len(unfinished) < len(tasks):
        tell(f"{len(tasks) - len(unfinished)} of {len(tasks)} runs are finished already")
    ours = (tasks[unfinished[place]] for place in team.claims(len(unfinished)))
    crew = _Crew(ours, len(unfinished), team.size, tell)
    try:
        while crew.is_busy(jobs):
            crew.listen()
    finally:
        crew.dismiss()
    team.gather(None)


class _Crew:
    """The processes at work."""

    def __init__(self, tasks: Iterator[Task], total: int, n_crews: int, tell: Tell) -> None:
        self.tell = tell
        self.waiting = tasks
        self.at_work: dict[Connection, tuple[Task, multiprocessing.process.BaseProcess]] = {}
        self.context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
        self.total, self.n_crews, self.n_done = total, n_crews, 0
        self.start = time.perf_counter()

    def is_busy(self, jobs: int) -> bool:
        """Start what there is room for; False when all is done."""
        while len(self.at_work) < jobs and (task := next(self.waiting, None)) is not None:
            ours, theirs = self.context.Pipe(duplex=False)
            process = self.context.Process(target=_work, args=(task, theirs), daemon=True)
            with safe_spawn():
                process.start()
            theirs.close()  # so that the process's end is the pipe's end
            self.at_work[ours] = task, process
        return bool(self.at_work)

    def listen(self) -> None:
        """Pass on what the processes say, and see off those that ended."""
        for connection in wait(list(self.at_work)):
            assert isinstance(connection, Connection)
            task, process = self.at_work[connection]
            try:
                said = connection.recv()
            except EOFError:
                del self.at_work[connection]
                connection.close()
                process.join()
                self._ended(task, process.exitcode)
                continue
            if isinstance(said, EdgePurifyError):
                raise said
            self.tell(f"{task.variant.name}: {said}")

    def dismiss(self) -> None:
        """End those still at work: their checkpoints and finished batches stay."""
        for _, process in self.at_work.values():
            process.terminate()
            process.join()

    def _ended(self, task: Task, exit_code: int | None) -> None:
        outcome = task.finished()
        if exit_code != 0 or outcome is None:
            raise AblationError(
                f"{task.variant.name}: its process ended with exit code {exit_code}; "
                "the same command goes on from where it stopped"
            )
        self.n_done += 1
        minutes = (time.perf_counter() - self.start) / 60
        left = max(0.0, minutes / self.n_done * (self.total / self.n_crews - self.n_done))
        here = " by this process" if self.n_crews > 1 else ""
        self.tell(
            f"{task.variant.name}: finished, {figures(outcome)}; "
            f"{self.n_done} of {self.total} runs{here} in {minutes:.1f} minutes, about {left:.0f} left"
        )


def _work(task: Task, connection: Connection) -> None:
    """What a process does; the last thing it sends may be an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    forget_team()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def heartbeat() -> None:
        if not parent.is_alive():
            raise SystemExit(1)  # nobody is left to hear of it, and another command may want the folder

    try:
        carry_out(task, connection.send, heartbeat)
    except EdgePurifyError as error:
        connection.send(error)
