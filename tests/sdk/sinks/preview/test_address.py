"""Addresses that the preview listens on."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from sdk.errors import UsageError
from sdk.sinks.preview import Address


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
