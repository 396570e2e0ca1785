"""A preview of a tiny bundle, open during a test; no thread of it may be left afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdk.bundle import Bundle
from sdk.sinks.preview import Preview
from sdk.sinks.preview.sink import TOKEN_VARIABLE


@pytest.fixture(autouse=True)
def _no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def preview(bundle: Bundle) -> Iterator[Preview]:
    with Preview("0", bundle) as opened:
        yield opened
