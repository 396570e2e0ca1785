"""URLs in any text: scheme and host alone are left of them."""

from __future__ import annotations

import pytest

from sdk.host.urls import without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No such command 'rtsp://u:SECRET@cam/1'.", "No such command 'rtsp://cam'."),
        ("bundle /home/rtsp:/u:SECRET@cam/1: no such folder", "bundle /home/rtsp://cam: no such folder"),
        ("RTMPS://cam/app/SECRET, and http://cam/SECRET.", "RTMPS://cam, and http://cam."),
        ("expected a string, got {'url': 'https://cam/?key=SECRET'}", "expected a string, got {'url': 'https://cam'}"),
        ("srt://cam:9000?passphrase=SECRET (said twice: srt://cam#SECRET)", "srt://cam (said twice: srt://cam)"),
        ("http://u:SE/CRET@cam/", "http://***"),
        ("rtsp://[::1]: no video there", "rtsp://[::1]: no video there"),
        ("(rtsp://u:SECRET@[fe80::1]:554/SECRET)", "(rtsp://[fe80::1])"),
        ("nothing: of the kind, tcp:port and C:/x", "nothing: of the kind, tcp:port and C:/x"),
    ],
)  # fmt: skip
def test_secrets_are_taken_out(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


def test_plain_web_addresses_can_be_kept() -> None:
    kept = "https://data.example/cifar-10.tar.gz: 404"
    assert without_secrets(kept, keep_plain=True) == kept
    assert without_secrets("https://data.example/a?key=SECRET", keep_plain=True) == "https://data.example"
    assert without_secrets("https://u:SECRET@data.example/a", keep_plain=True) == "https://data.example"
    assert without_secrets("rtmp://data.example/SECRET", keep_plain=True) == "rtmp://data.example"
