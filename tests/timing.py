"""A pytest plugin that finds the slow tests: ``make slow-tests`` runs every test with it and writes slow.txt.

A test is slow if it takes more than two seconds, or needs a fixture that takes more than five. Time is that
of the processor, of this process and its children, so that other work on the machine doesn't count.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MAX_TEST_S = 2.0
MAX_FIXTURE_S = 5.0
PATH = Path(__file__).parent / "slow.txt"

_spent: dict[str, float] = {}  # by test, as slow.txt names it: the longest of its cases
_fixtures: dict[str, float] = {}  # by fixture, the longest set-up
_needs: dict[str, set[str]] = {}  # by test, its fixtures


def name_of(item: pytest.Item) -> str:
    """FILE.py::TEST, without the case and the folder."""
    return f"{item.path.name}::{getattr(item, 'originalname', item.name)}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    name = name_of(item)
    _needs.setdefault(name, set()).update(getattr(item, "fixturenames", ()))
    with _timed(_spent, name):
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    with _timed(_fixtures, fixturedef.argname):
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the slow tests of the files that were run, and keep those of others."""
    files = {name.partition("::")[0] for name in _needs}
    known = PATH.read_text(encoding="utf-8").split() if PATH.exists() else []
    costly = {name for name, seconds in _fixtures.items() if seconds > MAX_FIXTURE_S}
    slow = {name for name, needs in _needs.items() if _spent[name] > MAX_TEST_S or needs & costly}
    slow |= {name for name in known if name.partition("::")[0] not in files}
    PATH.write_text("".join(f"{name}\n" for name in sorted(slow)), encoding="utf-8")


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    start = _processor_s()
    try:
        yield
    finally:
        spent[name] = max(spent.get(name, 0.0), _processor_s() - start)


def _processor_s() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
