"""Errors of all three packages, under one base, each with the exit code that a command ends with.

    raise BundleError(f"bundle {folder}: no bundle.json in it", hint="give the folder of a bundle")

An error's message is one line: what was wrong, where, what was got and expected, and, after a semicolon, how
to fix it. A command prints the message; a program that shows both parts apart reads ``what`` and ``hint``.
"""

from __future__ import annotations


class EdgePurifyError(Exception):
    """Base of every error that a user can cause or meet.

    Args:
        what: what was wrong and where, with the values got and expected; no full stop.
        hint: how to fix it, as an instruction; None where nothing can be advised.

    Attributes:
        exit_code: what a command ends with.
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        # a name, key or third party's complaint may hold line breaks
        self.what = " ".join(what.splitlines())
        self.hint = None if hint is None else " ".join(hint.splitlines())
        super().__init__(self.what if self.hint is None else f"{self.what}; {self.hint}")


class UsageError(EdgePurifyError, ValueError):
    """An argument is impossible: wrong type, out of range, or at odds with another."""

    exit_code = 2


class BundleError(EdgePurifyError):
    """A bundle is missing, damaged, of an unknown schema, or not allowed to load."""


class SourceError(EdgePurifyError):
    """A camera, video, picture or folder can't be opened or read."""


class SinkError(EdgePurifyError):
    """An output can't be written."""


class BackendError(EdgePurifyError):
    """An inference backend is absent, can't load an engine, or failed while running one."""


class GateError(EdgePurifyError):
    """A measured figure misses the bound it was held to."""

    exit_code = 3
