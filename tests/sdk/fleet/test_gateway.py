"""The service over HTTP: what it refuses and how, and that a lost replica costs no answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sdk import default_bundle
from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.fleet.service import parse_replicas
from sdk.sinks.preview.access import Guard
from tests.sdk.fleet.conftest import picture

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed; pip install 'edge-purify[ray]'")
from sdk.fleet import gateway as gateways  # noqa: E402
from sdk.fleet.gateway import Full, Gateway, Limits, Lost  # noqa: E402

TOKEN = {"Authorization": "Bearer secret"}
LIMITS = Limits(max_bytes=20_000, pending=2)

Ask = Callable[[bytes, int, str], Awaitable[tuple[int, bytes]]]
Client = Callable[[Any, str], Awaitable[None]]


async def echo(data: bytes, index: int, source: str) -> tuple[int, bytes]:
    return 200, json.dumps({"bytes": len(data), "frame": index, "source": source}).encode()


def served(client: Client, ask: Ask = echo, *, healthy: bool = True) -> None:
    """Run ``client`` against a gateway before ``ask``."""

    async def both() -> None:
        bundle, stop = Bundle.open(default_bundle()), asyncio.Event()
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        gateway = Gateway(bundle, Guard("secret"), ask, lambda: healthy, LIMITS)
        server = asyncio.create_task(gateway.serve("127.0.0.1", 0, stop=stop, on_listening=port.set_result))
        async with aiohttp.ClientSession() as session:
            await client(session, f"http://127.0.0.1:{await port}")
        stop.set()
        await server

    asyncio.run(both())


async def post(session: Any, url: str, data: Any, **how: Any) -> tuple[int, dict[str, Any], Any]:
    how.setdefault("headers", TOKEN)
    async with session.post(f"{url}/purify{how.pop('query', '')}", data=data, **how) as answer:
        return answer.status, await answer.json(), answer.headers


def test_nonsense_leaves_no_traceback_and_no_token_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    async def client(session: Any, url: str) -> None:
        port = int(url.rpartition(":")[2])
        for nonsense in (b"\x16\x03\x01 hello\r\n\r\n", b"GET /?token=secret HTTP/9.9\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(nonsense)
            assert b"200 OK" not in await reader.read(1000)
            writer.close()

    served(client)
    assert capfd.readouterr() == ("", "")


def test_a_picture_goes_to_a_replica_with_what_the_client_says_of_it() -> None:
    async def client(session: Any, url: str) -> None:
        data = picture(1)
        status, said, headers = await post(session, url, data, query="?frame=12&source=door")
        assert (status, said) == (200, {"bytes": len(data), "frame": 12, "source": "door"})
        assert headers["Cache-Control"] == "no-store"
        status, said, _ = await post(session, url, data)
        assert (said["frame"], said["source"]) == (0, "http")

    served(client)


@pytest.mark.parametrize(
    ("how", "data", "status", "words"),
    [
        ({"headers": {}}, b"x", 401, "the token is missing or wrong"),
        ({"headers": {"Authorization": "Bearer wrong"}}, b"x", 401, "the token is missing or wrong"),
        ({"headers": {**TOKEN, "Sec-Fetch-Site": "cross-site"}}, b"x", 403, "no other web site"),
        ({"headers": {**TOKEN, "Content-Type": "multipart/form-data"}}, b"x", 415, "expected image/"),
        ({"query": "?frame=-1"}, b"x", 400, "frame: expected a number"),
        ({"query": "?frame=" + "9" * 30}, b"x", 400, "frame: expected a number"),
        ({"query": "?source=" + "x" * 300}, b"x", 400, "source: expected at most 200"),
        ({}, bytes(20_001), 413, "more than 20000 bytes"),
    ],
)
def test_what_is_refused(how: dict[str, Any], data: bytes, status: int, words: str) -> None:
    async def client(session: Any, url: str) -> None:
        found, said, _ = await post(session, url, data, **how)
        assert found == status
        assert words in said["error"]

    served(client)


def test_a_body_without_a_length_ends_at_the_limit() -> None:
    async def endless() -> Any:
        while True:
            yield bytes(1000)

    async def client(session: Any, url: str) -> None:
        try:
            found, said, _ = await post(session, url, endless())
        except aiohttp.ClientConnectionError:
            return  # the gateway hung up amid the body, which is as good
        assert (found, said["error"]) == (413, "more than 20000 bytes")

    served(client)


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "PATIENCE_S", 0.05)

    async def slow() -> Any:
        yield b"x"
        await asyncio.sleep(30)

    async def client(session: Any, url: str) -> None:
        found, said, _ = await post(session, url, slow())
        assert (found, said["error"]) == (408, "the picture didn't arrive within 0 s")

    served(client)


def test_more_than_can_be_taken_are_told_to_come_again() -> None:
    release = asyncio.Event()
    at_work = 0

    async def hold(data: bytes, index: int, source: str) -> tuple[int, bytes]:
        nonlocal at_work
        at_work += 1
        await release.wait()
        return 200, b"{}"

    async def client(session: Any, url: str) -> None:
        held = [asyncio.create_task(post(session, url, b"x")) for _ in range(LIMITS.pending)]
        while at_work < LIMITS.pending:
            await asyncio.sleep(0.01)
        status, said, headers = await post(session, url, b"x")
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "too many requests" in said["error"]
        release.set()
        assert [status for status, _, _ in await asyncio.gather(*held)] == [200, 200]

    served(client, hold)


@pytest.mark.parametrize(("failure", "status"), [(Lost, 503), (Full, 429)])
def test_replicas_that_stay_away_are_told(failure: type[Exception], status: int) -> None:
    async def fail(data: bytes, index: int, source: str) -> tuple[int, bytes]:
        raise failure

    async def client(session: Any, url: str) -> None:
        assert (await post(session, url, b"x"))[0] == status

    served(client, fail)


def test_a_lost_replica_costs_no_answer() -> None:
    asked = 0

    async def lost_once(data: bytes, index: int, source: str) -> tuple[int, bytes]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Lost
        return 200, b"{}"

    async def client(session: Any, url: str) -> None:
        assert (await post(session, url, b"x"))[0] == 200

    served(client, lost_once)
    assert asked == 2


def test_health_is_open_and_metrics_are_not() -> None:
    async def client(session: Any, url: str) -> None:
        await post(session, url, b"x")
        await post(session, url, bytes(20_001))
        async with session.get(f"{url}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 401
        async with session.get(f"{url}/metrics", headers=TOKEN) as answer:
            text = await answer.text()
        assert 'edge_purify_requests_total{status="200"} 1.0' in text
        assert 'edge_purify_requests_total{status="413"} 1.0' in text
        assert "edge_purify_requests_pending 0.0" in text
        assert "secret" not in text

    served(client)


def test_without_replicas_it_is_not_healthy() -> None:
    async def client(session: Any, url: str) -> None:
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 503

    served(client, healthy=False)


@pytest.mark.parametrize(("text", "expected"), [("1", (1, 1)), ("2:8", (2, 8))])
def test_replicas_are_a_number_or_two(text: str, expected: tuple[int, int]) -> None:
    assert parse_replicas(text) == expected


@pytest.mark.parametrize("text", ["", "0", "3:2", "a", "1:b", "-1", "1:2:3"])
def test_other_replicas_are_told(text: str) -> None:
    with pytest.raises(UsageError, match=f"--replicas {text}: expected"):
        parse_replicas(text)
