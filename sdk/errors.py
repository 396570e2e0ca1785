"""The SDK's few errors, under one base, each with the exit code its command line ends with.

A message says what was wrong, where, what was got and expected, and how to mend it, so a command can print it
as one line and an application can show it as it is.
"""

from __future__ import annotations


class EdgePurifyError(Exception):
    """Base of every error that a user can cause or meet; ``exit_code`` is what a command ends with."""

    exit_code = 1


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
