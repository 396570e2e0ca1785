"""Who may look: the token, and no other web site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from sdk.bundle import Bundle
from sdk.sinks.preview import Preview
from sdk.sinks.preview.sink import TOKEN_VARIABLE
from tests.sdk.conftest import make_frame, make_result
from tests.sdk.sinks.preview.helpers import get


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
