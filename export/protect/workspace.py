"""The folder of work in progress: what was asked for, the plan, and which parts are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from export.protect.plan import Plan
from sdk.errors import UsageError
from sdk.files import write_atomically

SCHEMA = 1
STATE = "protect.json"


class State(msgspec.Struct, frozen=True):
    """``protect.json``.

    Attributes:
        options: of the command, see ``Request.options``.
        plan: None before the rates were measured.
        finished: names of the parts that are done.
        notes: what the user should know of them, in order.
    """

    options: dict[str, Any]
    plan: Plan | None = None
    finished: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA


@dataclass
class Workspace:
    """One run's folder, and its state as it is on disk."""

    folder: Path
    state: State

    @classmethod
    def open(cls, folder: Path, options: Mapping[str, Any]) -> Workspace:
        """Begin in ``folder``, or go on with what is there.

        Raises:
            UsageError: it holds work with other options, or can't be used.
        """
        path = folder / STATE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else None
        except OSError as error:
            raise UsageError(f"--work {folder}: can't be used: {error.strerror}") from None
        if content is None:
            opened = cls(folder, State(dict(options)))
            opened._save()
            return opened
        try:
            state = msgspec.json.decode(content, type=State)
        except msgspec.DecodeError as error:
            raise UsageError(
                f"--work {folder}: {STATE} in it is damaged: {error}",
                hint="remove the folder, or name another",
            ) from None
        for key in (*options, *state.options):
            if options.get(key) != state.options.get(key):
                raise UsageError(
                    f"--work {folder}: it holds work with another {key}: {_shown(state.options.get(key))}, "
                    f"now {_shown(options.get(key))}",
                    hint="give the options that it began with, or name another folder by --work",
                )
        return cls(folder, state)

    def plan(self, plan: Plan) -> None:
        """Keep the plan: it is decided once."""
        self._change(plan=plan)

    def is_finished(self, part: str) -> bool:
        return part in self.state.finished

    def finish(self, part: str, *notes: str) -> None:
        """Keep that ``part`` is done, and what the user should know of it."""
        self._change(finished=(*self.state.finished, part), notes=(*self.state.notes, *notes))

    def _change(self, **changes: Any) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        self._save()

    def _save(self) -> None:
        data = msgspec.json.format(msgspec.json.encode(self.state), indent=1) + b"\n"
        write_atomically(self.folder / STATE, data)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
