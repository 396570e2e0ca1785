"""Errors of all three packages, under one base, each with the exit code that a command ends with.

    raise BundleError(f"bundle {folder}: no bundle.json in it", hint="give the folder of a bundle")

An error's message is one line: what was wrong, where, what was got and expected, and, after a semicolon, how
to fix it. A command prints the message; a program that shows both parts apart reads ``what`` and ``hint``.
"""

from __future__ import annotations

# as they stand in what a file holds: names, keys, third parties' complaints
_LINE_BREAKS = str.maketrans({each: ascii(each)[1:-1] for each in "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"})


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
        self.what = what.translate(_LINE_BREAKS)
        self.hint = None if hint is None else hint.translate(_LINE_BREAKS)
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
