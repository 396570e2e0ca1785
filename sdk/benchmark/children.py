"""Child processes, for what must start fresh: resident memory, a long soak, another framework."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from sdk.errors import BackendError


class NotMeasured(Exception):
    """A section can't be measured here; the message says why."""


class Child:
    """A Python program in another process, spoken to line by line; a context manager that ends it.

    Args:
        name: of the program, for messages.
        command: the whole command line, as `sdk.host.children` makes it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - __exit__ closes it; a pipe unread would block
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self) -> str:
        """Send an empty line and wait for the line that answers it.

        Raises:
            BackendError: the program has ended; its last words are in the message.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self.hear()

    def hear(self) -> str:
        """Wait for the next line.

        Raises:
            BackendError: the program has ended; its last words are in the message.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return line.rstrip("\n")

    def _fail(self) -> NoReturn:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or ["it said nothing"]
        raise BackendError(f"the child process {self._name} ended with {code}: {said[-1]}")

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
