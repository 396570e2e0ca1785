"""The service on a real Ray cluster of two workers: a killed replica costs no answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed; pip install 'edge-purify[ray]'")
pytest.importorskip("aiohttp", reason="aiohttp is not installed; pip install 'edge-purify[ray]'")

import aiohttp

from sdk import default_bundle
from sdk.bundle import Bundle
from sdk.fleet.gateway import Gateway, Limits
from sdk.fleet.replica import NAME, start
from sdk.fleet.service import Replicas, Status
from sdk.fleet.setup import Setup
from sdk.sinks.preview.access import Guard
from tests.sdk.fleet.conftest import picture, processes

TOKEN = {"Authorization": "Bearer secret"}
MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def handle(ray: Any) -> Iterator[Any]:
    """Two replicas."""
    from ray import serve as ray_serve

    yield start(Setup(hide_draw=True), max_bytes=MAX_BYTES, replicas=(2, 2), queue=64)
    ray_serve.shutdown()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_pictures_are_answered_though_a_replica_is_killed(handle: Any) -> None:
    """Forty pictures, some of them none, over eight connections; one is killed after the tenth answer."""

    async def both() -> list[tuple[int, dict[str, Any]]]:
        stop = asyncio.Event()
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        bundle = Bundle.open(default_bundle())
        gateway = Gateway(
            bundle, Guard("secret"), Replicas(handle).ask, Status().healthy, Limits(MAX_BYTES, 64)
        )
        server = asyncio.create_task(gateway.serve("127.0.0.1", 0, stop=stop, on_listening=port.set_result))
        url = f"http://127.0.0.1:{await port}"
        answers: dict[int, tuple[int, dict[str, Any]]] = {}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8), headers=TOKEN) as session:

            async def ask(number: int) -> None:
                body = b"no picture" if number % 10 == 9 else picture(number)
                async with session.post(f"{url}/purify?frame={number}&source=door", data=body) as answer:
                    answers[number] = answer.status, await answer.json()
                if len(answers) == 10:
                    assert len(processes(f"ray::ServeReplica:{NAME}")) == 2
                    os.kill(processes(f"ray::ServeReplica:{NAME}")[0], signal.SIGKILL)

            await asyncio.gather(*(ask(number) for number in range(40)))
            async with session.get(f"{url}/healthz") as answer:
                assert answer.status == 200
        stop.set()
        await server
        return [answers[number] for number in range(40)]

    found = asyncio.run(both())
    for number, (status, said) in enumerate(found):
        if number % 10 == 9:
            assert status == 415
            assert said["error"].startswith("picture: not a picture")
        else:
            assert (status, said["frame"], said["source"], said["error"]) == (200, number, "door", None)
            assert said["label"] in Bundle.open(default_bundle()).labels
            assert said["draws"] == []


def test_the_command_serves_and_keeps_the_users_token_to_itself() -> None:
    command = [sys.executable, "-m", "sdk.cli", "serve", "--serve", "0"]
    environment = {**os.environ, "EDGE_PURIFY_TOKEN": "a-secret-of-mine"}
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[3], env=environment, stderr=subprocess.PIPE, text=True
    ) as served:
        assert served.stderr is not None
        lines = [next(line for line in served.stderr if "serving at" in line)]
        url = lines[0].split("serving at ")[1].split()[0]
        request = urllib.request.Request(
            f"{url}purify?source=door", picture(7), {"Authorization": "Bearer a-secret-of-mine"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())
        served.send_signal(signal.SIGTERM)
        lines += served.stderr
    assert found["label"] in Bundle.open(default_bundle()).labels
    assert (found["source"], served.returncode) == ("door", 130)
    assert "the token in $EDGE_PURIFY_TOKEN" in lines[0]
    assert not any("a-secret-of-mine" in line for line in lines)
