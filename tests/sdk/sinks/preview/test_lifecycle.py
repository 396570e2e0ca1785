"""Start and end of the preview, its errors, and the command."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk.bundle import Bundle
from sdk.cli import main
from sdk.errors import SinkError
from sdk.sinks.preview import Preview
from tests.sdk.cli.helpers import COMMAND
from tests.sdk.conftest import DEADLINE_S, MjpegServer, make_frame, make_result, wait_until
from tests.sdk.sinks.preview.helpers import Viewer, get, read_url


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
