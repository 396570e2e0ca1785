"""What the preview shows, over real HTTP: page, frames, pictures, figures, metrics."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import cv2
import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdk.bundle import Bundle
from sdk.sinks.annotate import annotate
from sdk.sinks.preview import Preview, server
from sdk.sinks.preview.feed import Status
from sdk.sinks.record import record
from sdk.sources import SourceEvent, SourceState, open_source
from sdk.sources.roi import Roi
from tests.sdk.conftest import DEADLINE_S, make_frame, make_result
from tests.sdk.sinks.preview.helpers import Viewer, get, read_message


def test_page_is_whole_in_itself(preview: Preview) -> None:
    page = get(preview.url)
    assert (page.code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<title>edge-purify</title>" in page.body
    assert b"http" not in page.body, "it needs nothing from elsewhere"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "data:" not in policy
    assert re.search(rb"<script>|<style| style=|javascript:| on[a-z]+=", page.body) is None, (
        "nothing is inline"
    )
    parts = re.findall(rb'(?:src|href)="([^"]+)"', page.body)
    assert sorted(parts) == [b"icon.svg", b"page.css", b"page.js"]
    for part in parts:
        answer = get(preview.url.partition("?")[0], part.decode())
        assert answer.code == 200
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_status_before_and_after_the_first_frame(preview: Preview, bundle: Bundle) -> None:
    def status() -> Status:
        return msgspec.json.decode(get(preview.url, "status").body, type=Status)

    empty = status()
    assert (empty.bundle, empty.trouble, empty.frames, empty.newest) == ("tiny", None, 0, None)
    assert get(preview.url, "pair.png").code == 404
    frame = replace(make_frame(4), roi=Roi(0, 0, 20, 20))
    preview.write(make_frame(0), make_result(label=None))
    preview.write(frame, make_result(n_draws=2))
    after = status()
    assert (after.frames, after.skipped, after.missed) == (2, 1, 3)
    assert after.newest == record(frame, make_result(n_draws=2), bundle.labels)
    assert after.latency_ms["total"] == (2.0, 2.0, 2.0)


def test_pair_is_what_enters_the_engines_and_what_comes_out(preview: Preview) -> None:
    frame = replace(make_frame(), roi=Roi(16, 0, 48, 48))
    frame.image[:, :16] = 255  # outside
    preview.write(frame, make_result())
    answer = get(preview.url, "pair.png")
    assert answer.headers["Content-Type"] == "image/png"
    pair = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
    assert pair.shape == (16, 32, 3)
    assert np.all(pair[:, :16] == (200, 60, 60))
    assert np.all(pair[:, 16:] == (0, 0, 255))
    preview.write(make_frame(1), make_result(label=None))
    assert get(preview.url, "pair.png").code == 404, "a skipped frame has no purified picture"


def test_picture_and_decisions_of_one_frame_come_in_one_piece(preview: Preview, bundle: Bundle) -> None:
    for index in range(3):
        frame = make_frame(index, (480, 640))
        frame.image[:] = 40 * index
        preview.write(frame, make_result(score=0.5 + index / 10))
        found = read_message(get(preview.url, "frame").body)
        assert found.number == index + 1
        assert found.records == [record(frame, make_result(score=0.5 + index / 10), bundle.labels)]
        assert found.picture.shape == (480, 640, 3), "no bar: the page says it in text"
        assert np.abs(found.picture.astype(int) - 40 * index).max() < 8
        assert found.pair is not None
        assert found.pair.shape == (16, 32, 3)
    preview.write(make_frame(3), make_result(label=None))
    assert read_message(get(preview.url, "frame").body).pair is None


def test_regions_of_a_frame_are_shown_together(preview: Preview) -> None:
    rois = (Roi(0, 0, 20, 20), Roi(30, 10, 30, 30))
    results = [replace(make_result(), region=rois[0]), replace(make_result(label=None), region=rois[1])]
    preview.write_regions(replace(make_frame(), rois=rois), results)
    found = read_message(get(preview.url, "frame").body)
    assert [each.roi for each in found.records] == list(rois)
    assert [each.accepted for each in found.records] == [True, False]
    status = msgspec.json.decode(get(preview.url, "status").body, type=Status)
    assert (status.frames, status.skipped) == (1, 0)


def test_page_waits_for_the_next_frame(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LONG_POLL_S", 0.05)
    assert get(preview.url, "frame").code == 204
    preview.write(make_frame(), make_result())
    url = preview.url + "&after="
    assert get(url + "0", "frame").code == 200
    assert get(url + "1", "frame").code == 204
    assert get(url + "x", "frame").code == 400
    monkeypatch.setattr(server, "LONG_POLL_S", DEADLINE_S)
    timer = threading.Timer(0.1, preview.write, (make_frame(1), make_result()))
    timer.start()
    assert read_message(get(url + "1", "frame").body).number == 2
    timer.join()


def test_each_source_is_counted_and_shown_by_itself(preview: Preview) -> None:
    for index in range(4):
        preview.write(replace(make_frame(index, time_s=index / 25), source="door"), make_result("red"))
    preview.write(replace(make_frame(9, time_s=1.0), source="yard"), make_result(label=None))
    preview.source_changed(SourceEvent("yard", SourceState.STALLED, "no frame for 10 s"))
    status = msgspec.json.decode(get(preview.url, "status").body, type=Status)
    door, yard = status.sources
    assert (door.name, door.frames, door.skipped, door.missed, door.label) == ("door", 4, 0, 0, "red")
    assert (yard.frames, yard.skipped, yard.missed, yard.label) == (1, 1, 9, None)
    assert (yard.state, yard.reason) == ("stalled", "no frame for 10 s")
    assert read_message(get(preview.url + "&source=door", "frame").body).records[0].source == "door"
    metrics = get(preview.url, "metrics").body.decode()
    assert 'edge_purify_source_state{source="yard",state="stalled"} 1.0' in metrics
    assert 'edge_purify_source_state{source="yard",state="live"} 0.0' in metrics
    assert 'edge_purify_source_changes_total{source="yard",state="stalled"} 1.0' in metrics


def test_live_picture_is_a_stream_that_the_runtime_itself_can_read(preview: Preview) -> None:
    result = make_result()
    expected = annotate(make_frame(size=(480, 640)).image, result)
    stop = threading.Event()

    def loop() -> None:
        for index in range(100_000):
            preview.write(make_frame(index, (480, 640)), result)
            if stop.wait(0.01):
                return

    writer = threading.Thread(target=loop)
    writer.start()
    try:
        with open_source(preview.url.replace("?", "live.mjpg?")) as source:
            image = next(iter(source)).image
    finally:
        stop.set()
        writer.join()
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 3, "but for JPEG"


def test_large_frames_are_sent_smaller(preview: Preview) -> None:
    preview.write(make_frame(size=(1080, 1920)), make_result())
    with Viewer(preview) as viewer:
        assert next(viewer.pictures()).shape[1] == 1280


def test_metrics_are_prometheus(preview: Preview) -> None:
    for index, label in enumerate(["red", "red", "blue", None]):
        preview.write(make_frame(2 * index), replace(make_result(label, n_draws=2), suspicion=0.25 * index))
    answer = get(preview.url, "metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    assert samples["edge_purify_frames_total",] == 4
    assert samples["edge_purify_frames_skipped_total",] == 1
    assert samples["edge_purify_frames_missed_total",] == 3
    assert samples["edge_purify_labels_total", "red"] == 2
    assert samples["edge_purify_draws_total", "classifier-00", "purifier-01"] == 4
    assert samples["edge_purify_suspicion_bucket", "0.3"] == 2
    assert samples["edge_purify_suspicion_sum",] == pytest.approx(1.5)
    assert samples["edge_purify_stage_seconds_count", "total"] == 4
    assert samples["edge_purify_stage_seconds_sum", "total"] == pytest.approx(4 * 2.0e-3)
    assert samples["edge_purify_stage_seconds_bucket", "0.001", "total"] == 0
    assert samples["edge_purify_stage_seconds_bucket", "0.0025", "total"] == 4


def test_each_run_counts_for_itself(preview: Preview, bundle: Bundle) -> None:
    preview.write(make_frame(), make_result())
    with Preview("0", bundle) as other:
        assert b"edge_purify_frames_total 0.0" in get(other.url, "metrics").body


def test_hidden_draws_are_nowhere(preview: Preview) -> None:
    preview.write(make_frame(), make_result(n_draws=0))
    for path in ("frame", "status", "metrics", "live.mjpg"):
        if path == "live.mjpg":
            with Viewer(preview) as viewer:
                assert next(viewer.pictures()).shape[1] == 640
        else:
            assert b"purifier-0" not in get(preview.url, path).body
