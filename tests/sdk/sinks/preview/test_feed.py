"""Health and figures of the loop."""

from __future__ import annotations

import gc
import weakref

import pytest

from sdk.bundle import Bundle
from sdk.sinks.preview import Preview, feed
from sdk.sinks.preview.feed import Feed
from tests.sdk.conftest import make_frame, make_result
from tests.sdk.sinks.preview.helpers import get


def test_health_follows_the_loop(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get(preview.url, "healthz")[:2] == (200, b"ok\n")
    monkeypatch.setattr(feed, "STALLED_S", -1.0)
    assert get(preview.url, "healthz")[:2] == (503, b"stalled\n")


def test_feed_tells_silence_from_failing_engines(bundle: Bundle) -> None:
    now = 100.0
    fed = Feed(bundle, clock=lambda: now)
    for index in range(20):
        now = 100.0 + index / 2
        fed.add(make_frame(index), [make_result()])
    status = fed.status()
    assert status.frames_per_s == pytest.approx(20 / 9.5, abs=0.01)
    now += 10.0
    assert fed.trouble is None
    assert fed.status().frames_per_s == pytest.approx(0.1), "the frames of the last ten seconds count"
    now += 1.0
    assert fed.trouble == "no frame for 11 s"
    assert fed.status().latency_ms == {}
    fed.add(make_frame(20), [make_result(label=None)])
    assert fed.trouble == "no label for 11 s: engine purifier-00: failed"
    fed.add(make_frame(21), [make_result()])
    assert fed.trouble is None


def test_feed_keeps_no_picture_but_the_newest(bundle: Bundle) -> None:
    fed, result = Feed(bundle), make_result()
    first = weakref.ref(result._purified)
    for index in range(2):
        fed.add(make_frame(index), [result])
        result = make_result()
    gc.collect()
    assert first() is None
    assert fed.status().frames == 2
