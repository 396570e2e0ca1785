"""Errors of a training run."""

from __future__ import annotations

from sdk.errors import EdgePurifyError


class TrainingError(EdgePurifyError):
    """A run can't go on: a loss or weight became non-finite, or the defence can't be trained."""
