"""The preview, over real HTTP: what it shows, to whom, and that nobody who looks holds the loop up."""

from __future__ import annotations

import gc
import json
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import cv2
import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdk.bundle import Bundle
from sdk.cli import main
from sdk.errors import SinkError, UsageError
from sdk.sinks.annotate import annotate
from sdk.sinks.preview import Address, Preview, feed, gate, server
from sdk.sinks.preview.feed import Feed, Status
from sdk.sinks.preview.sink import TOKEN_VARIABLE
from sdk.sinks.record import Record, record
from sdk.sources import SourceEvent, SourceState, open_source
from sdk.sources.roi import Roi
from tests.sdk.cli.helpers import COMMAND
from tests.sdk.conftest import DEADLINE_S, MjpegServer, make_frame, make_result, wait_until


class Answer(NamedTuple):
    code: int
    body: bytes
    headers: dict[str, str]


def get(url: str, path: str = "", **headers: str) -> Answer:
    """GET ``path`` under the page's address, with its token; an underscore in a header's name is a hyphen."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    page = urlsplit(url)
    target = page._replace(path="/" + path).geturl()
    try:
        with urlopen(Request(target, headers=headers), timeout=DEADLINE_S) as answer:
            return Answer(answer.status, answer.read(), dict(answer.headers))
    except HTTPError as error:
        return Answer(error.code, error.read(), dict(error.headers))


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


# --- addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("127.0.0.5:65535", "127.0.0.5", 65535),
        ("[::1]:80", "::1", 80),
        ("0.0.0.0:8080", "0.0.0.0", 8080),
        ("[::]:8080", "::", 8080),
        ("camera.lan:8080", "camera.lan", 8080),
    ],
)
def test_address(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address
    url = urlsplit(address.url)
    assert url.port == port
    assert url.hostname == (socket.gethostname().lower() if host in ("0.0.0.0", "::") else host)


@pytest.mark.parametrize(
    "text", ["", "http", ":8080", "65536", "-1", "::1:8080", "host:", "a:b:1", "1.5", "٣"]
)
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected \[HOST:\]PORT, such as 8080"):
        Address.parse(text)


# --- what it shows


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


class Message(NamedTuple):
    """What ``/frame`` gives."""

    number: int
    records: list[Record]
    picture: np.ndarray
    pair: np.ndarray | None


def read_message(body: bytes) -> Message:
    sizes = struct.unpack(">III", body[:12])
    assert len(body) == 12 + sum(sizes)
    starts = [12, 12 + sizes[0], 12 + sizes[0] + sizes[1]]
    text, picture, pair = (body[start : start + size] for start, size in zip(starts, sizes, strict=True))
    found = json.loads(text)
    return Message(
        found["number"],
        msgspec.convert(found["records"], list[Record]),
        cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR),
        cv2.imdecode(np.frombuffer(pair, np.uint8), cv2.IMREAD_COLOR) if pair else None,
    )


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


# --- health


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


# --- who may look


def test_feed_keeps_no_picture_but_the_newest(bundle: Bundle) -> None:
    fed, result = Feed(bundle), make_result()
    first = weakref.ref(result._purified)
    for index in range(2):
        fed.add(make_frame(index), [result])
        result = make_result()
    gc.collect()
    assert first() is None
    assert fed.status().frames == 2


@pytest.fixture
def exposed(bundle: Bundle) -> Iterator[Preview]:
    with Preview("0.0.0.0:0", bundle) as opened:
        yield opened


def test_others_need_the_token(exposed: Preview) -> None:
    token = urlsplit(exposed.url).query
    assert len(token) > len("token=") + 20
    page = f"http://127.0.0.1:{exposed.address.port}/"
    for path in ("", "live.mjpg", "pair.png", "status", "metrics", "nothing"):
        refused = get(page, path)
        assert refused.code == 401, path
        assert b"take the address as edge-purify printed it" in refused.body
    assert get(page + "?token=wrong").code == 401
    assert get(page, Authorization="Bearer wrong").code == 401
    assert get(page + "?" + token, "status").code == 200
    assert get(page, "metrics", Authorization="Bearer " + token.removeprefix("token=")).code == 200
    assert get(page, "healthz").code == 200
    bearer = "bearer " + token.removeprefix("token=")
    assert get(page, "metrics", Authorization=bearer).code == 200
    assert get(page + "?" + token, "status", Authorization="Basic x").code == 200, "a proxy's own password"
    assert get(page, Authorization="Bearer \xff\xfe").code == 401


def test_tokens_are_fresh_unless_given(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Preview("0.0.0.0:8080", bundle).url for _ in range(2))
    assert first != second
    assert re.fullmatch(r"http://127\.0\.0\.1:8080/\?token=[\w-]{20,}", Preview("8080", bundle).url)
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert len(Preview("8080", bundle).url) > 40, "an empty variable is none"
    monkeypatch.setenv(TOKEN_VARIABLE, "sesame")
    assert Preview("8080", bundle).url == "http://127.0.0.1:8080/?token=sesame"
    monkeypatch.setenv(TOKEN_VARIABLE, "a&b+c")
    with Preview("0", bundle) as opened:
        assert get(opened.url, "status").code == 200, "the address as it is printed"


@pytest.mark.parametrize("path", ["", "frame", "live.mjpg", "pair.png", "status", "metrics"])
def test_this_machine_needs_the_token_too(preview: Preview, path: str) -> None:
    page = preview.url.partition("?")[0]
    assert get(page, path).code == 401
    assert get(page, path, Host="evil.example").code == 401, "a name of another site that leads here"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},  # another port of this machine
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["", "frame", "live.mjpg", "status", "healthz", "page.js"])
def test_other_sites_requests_are_refused_though_they_know_the_token(
    preview: Preview, path: str, headers: dict[str, str]
) -> None:
    preview.write(make_frame(), make_result())
    assert get(preview.url, path, **headers).code == 403


def test_link_to_the_page_may_be_followed_and_its_own_requests_are_answered(preview: Preview) -> None:
    preview.write(make_frame(), make_result())
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert get(preview.url, **visit).code == 200
    assert get(preview.url, "live.mjpg", **visit).code == 403, "the page alone"
    port = preview.address.port
    own = {"Sec_Fetch_Site": "same-origin", "Origin": f"http://127.0.0.1:{port}"}
    assert get(preview.url, "frame", **own).code == 200
    assert get(preview.url, "status", Sec_Fetch_Site="none").code == 200


# --- viewers


class Viewer:
    """Somebody who watches the live picture over a raw connection; HTTP/1.0, whose bodies are not chunked."""

    def __init__(self, preview: Preview) -> None:
        self._socket = socket.create_connection(("127.0.0.1", preview.address.port), timeout=DEADLINE_S)
        query = urlsplit(preview.url).query
        self._socket.sendall(f"GET /live.mjpg?{query} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self._stream = self._socket.makefile("rb")

    def status(self) -> int:
        return int(self._stream.readline().split()[1])

    def pictures(self) -> Iterator[np.ndarray]:
        """Each as soon as it is there whole, to the end of the stream."""
        size = 0
        for line in self._stream:
            if line.startswith(b"Content-Length"):
                size = int(line.split(b":")[1])
            elif line == b"\r\n" and size:
                jpeg = np.frombuffer(self._stream.read(size), np.uint8)
                size = 0
                yield cv2.imdecode(jpeg, cv2.IMREAD_COLOR)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        self._socket.close()


def test_viewer_who_takes_nothing_holds_nobody_up_and_is_dropped(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_VIEWERS", 2)
    monkeypatch.setattr(server, "PATIENCE_S", 0.5)
    monkeypatch.setattr(server, "MAX_FRAMES_PER_S", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    n_written = 0

    def write_one_more() -> None:
        nonlocal n_written
        preview.write(replace(make_frame(n_written), image=noise), make_result())
        n_written += 1

    write_one_more()
    with Viewer(preview) as idle, Viewer(preview) as keen:
        assert idle.status() == 200
        seen = keen.pictures()
        next(seen)
        for _ in range(30):  # some 30 MB of pictures, far more than the idle one's buffers take
            write_one_more()
            next(seen)

        def has_room() -> bool:
            write_one_more()
            next(seen)
            with Viewer(preview) as third:
                return third.status() == 200

        wait_until(has_room, "the idle viewer to be dropped")


def test_viewers_are_bounded_and_a_place_is_free_once_one_leaves(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_VIEWERS", 1)
    with Viewer(preview) as first:
        assert first.status() == 200
        refused = get(preview.url, "live.mjpg")
        assert (refused.code, refused.body) == (503, b"1 are watching, which is as many as can\n")
        assert get(preview.url, "status").code == 200, "only the stream is bounded"

    def admitted() -> bool:
        with Viewer(preview) as next_one:
            return next_one.status() == 200

    wait_until(admitted, "the first viewer's place, though no frame came")


def test_viewer_sees_the_newest_frame_not_every_frame(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(50):
        preview.write(make_frame(index), make_result())
    with Viewer(preview) as viewer:
        seen = viewer.pictures()
        next(seen)
        changed = make_frame(50)
        changed.image[:] = 255
        preview.write(changed, make_result())
        assert next(seen)[5, 5].min() > 240, "the next picture is the newest frame's"


# --- start and end


def test_end_is_the_end_of_the_stream(bundle: Bundle) -> None:
    with Preview("0", bundle) as opened:
        opened.write(make_frame(), make_result())
        viewer = Viewer(opened)
        seen = viewer.pictures()
        next(seen)
    assert list(seen) == []
    opened.close()
    with viewer, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", opened.address.port), timeout=DEADLINE_S)


def test_closing_what_was_never_opened_is_harmless(bundle: Bundle) -> None:
    Preview("0", bundle).close()


def test_port_in_use_is_one_line(preview: Preview, bundle: Bundle) -> None:
    port = preview.address.port
    with pytest.raises(SinkError, match=rf"--serve 127\.0\.0\.1:{port}: another program listens there"):
        Preview(str(port), bundle).open()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_foreign_address_is_one_line(host: str, bundle: Bundle) -> None:
    with pytest.raises(SinkError, match=rf"--serve {host}:0: this machine can't listen there \(.+\); give"):
        Preview(f"{host}:0", bundle).open()


def test_name_that_no_host_can_have_is_one_line(bundle: Bundle) -> None:
    with pytest.raises(SinkError, match=r"--serve a\.\.b:0: that is no host's name; give"):
        Preview("a..b:0", bundle).open()


@pytest.mark.parametrize("package", ["aiohttp", "prometheus_client"])
def test_missing_package_names_the_extra(
    package: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        name
        for name in sys.modules
        if name.startswith(("sdk.sinks.preview.metrics", "sdk.sinks.preview.server"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SinkError, match=rf"{package}.*pip install 'edge-purify\[web\]'"):
        Preview("0", bundle).open()


def test_nonsense_is_answered_and_leaves_no_traceback(
    preview: Preview, capfd: pytest.CaptureFixture[str]
) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00 hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 10_000):
        with socket.create_connection(("127.0.0.1", preview.address.port), timeout=DEADLINE_S) as raw:
            raw.sendall(nonsense)
            assert b"200 OK" not in raw.recv(1000)
    assert get(preview.url, "../../../etc/passwd").code == 404
    assert get(preview.url, "healthz").code == 200
    assert capfd.readouterr() == ("", "")


# --- connections

MAX_DESCRIPTORS = 160


def test_idle_connections_never_end_the_loop(tiny_bundle: Path, mjpeg_server: MjpegServer) -> None:
    """Real process, real sockets: more connections than the process may have descriptors."""
    process = subprocess.Popen(
        [
            *(*COMMAND, "--source", mjpeg_server.url(), "--bundle", tiny_bundle, "--backend", "onnxruntime"),
            *("--serve", "0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit_descriptors,
    )
    idle: list[socket.socket] = []
    try:
        assert process.stderr is not None
        url = read_url(process.stderr)
        port = urlsplit(url).port
        wait_until(lambda: json.loads(get(url, "status").body)["frames"] >= 5, "five frames")
        before = json.loads(get(url, "status").body)["frames"]
        for number in range(MAX_DESCRIPTORS + 40):
            one = socket.socket()
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
            idle.append(one)
            if number % 3 == 0:
                with suppress(OSError):
                    one.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            time.sleep(0.01)  # accepted one after the other, as over a network
        assert process.poll() is None
        connections = mjpeg_server.connections
        mjpeg_server.frames_per_connection = 0  # the camera is lost and must be connected again meanwhile
        wait_until(lambda: mjpeg_server.connections > connections, "the camera's new connection")
        mjpeg_server.frames_per_connection = None
        for one in idle:
            one.close()
        wait_until(lambda: json.loads(get(url, "status").body)["frames"] > before + 20, "frames to go on")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        for one in idle:
            one.close()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "open files" not in err


def limit_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, MAX_DESCRIPTORS))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def read_url(stream: IO[str]) -> str:
    line = stream.readline()
    assert line.startswith("edge-purify: preview at http://127.0.0.1:"), line
    return line.split()[-1]


def connect(preview: Preview) -> socket.socket:
    return socket.create_connection(("127.0.0.1", preview.address.port), timeout=DEADLINE_S)


def test_connections_are_bounded_and_one_too_many_is_told_so(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_CONNECTIONS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(preview))

        def is_refused() -> bool:
            with connect(preview) as one:
                return one.recv(1000).startswith(b"HTTP/1.1 503 ")

        wait_until(is_refused, "the three to be counted")
    wait_until(lambda: get(preview.url, "healthz").code == 200, "a place")


@pytest.mark.parametrize(
    "sent", [b"", b"GET /status HTTP/1.1\r\nX: ", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_connection_without_a_request_is_dropped(
    sent: bytes, preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "IDLE_S", 0.2)
    with connect(preview) as idle:
        idle.sendall(sent)
        with suppress(ConnectionResetError):
            while idle.recv(1000):
                pass


# --- the command


def test_command_serves_a_live_run_until_it_is_stopped(tiny_bundle: Path, mjpeg_server: MjpegServer) -> None:
    process = subprocess.Popen(
        [
            *(*COMMAND, "--source", mjpeg_server.url(), "--bundle", tiny_bundle, "--backend", "onnxruntime"),
            *("--serve", "0", "--votes", "2"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stderr is not None
        url = read_url(process.stderr)
        wait_until(lambda: json.loads(get(url, "status").body)["frames"] >= 5, "five frames")
        assert get(url, "pair.png").code == 200, "the purified picture is kept for it"
        assert get(url, "healthz").code == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(("address", "code"), [("x", 2), ("192.0.2.1:0", 1)])
def test_command_says_in_one_line_what_is_wrong(
    address: str, code: int, tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((64, 64, 3), (30, 30, 220), np.uint8))
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("--source", str(tmp_path / "red.png"), "--bundle", str(tiny_bundle)),
                *("--backend", "onnxruntime", "--serve", address),
            ]
        )
    out, err = capfd.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("edge-purify: error: --serve ")
