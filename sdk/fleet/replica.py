"""One Purifier behind Ray Serve: requests that arrive together are purified together."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from ray import serve

from sdk.errors import SourceError
from sdk.fleet.cluster import worker_variables
from sdk.fleet.pictures import NotAPictureError, TooLargeError, decode
from sdk.fleet.setup import Setup
from sdk.sinks.record import record
from sdk.sources import Frame

AT_A_TIME = 16  # pictures
WAIT_S = 0.004  # for others to arrive
NAME = "edge-purify"

Answer = tuple[int, bytes]  #: an HTTP status, and JSON


class Replica:
    """Loads a Purifier; a deployment of Ray Serve.

    Args:
        setup: of the Purifier.
        max_bytes: of an encoded picture.
    """

    def __init__(self, setup: Setup, max_bytes: int) -> None:
        self._purifier = setup.load()
        self._max_bytes = max_bytes
        self._encoder = msgspec.json.Encoder()

    async def __call__(self, data: bytes, index: int, source: str) -> Answer:
        """The picture ``data``, encoded, as a ``Record`` in JSON; or what is wrong with it."""
        try:
            image = await asyncio.to_thread(decode, data, "picture", max_bytes=self._max_bytes)
        except NotAPictureError as error:
            return 415, _says(error)
        except TooLargeError as error:
            return 413, _says(error)
        except SourceError as error:
            return 400, _says(error)
        answer: Answer = await self._decide(Frame(image, index, source))
        return answer

    @serve.batch(max_batch_size=AT_A_TIME, batch_wait_timeout_s=WAIT_S)  # type: ignore[untyped-decorator]
    async def _decide(self, frames: list[Frame]) -> list[Answer]:
        results = await asyncio.to_thread(self._purifier.batch, [frame.image for frame in frames])
        labels = self._purifier.bundle.labels
        return [
            (200 if result.error is None else 500, self._encoder.encode(record(frame, result, labels)))
            for frame, result in zip(frames, results, strict=True)
        ]


def start(setup: Setup, *, max_bytes: int, replicas: tuple[int, int], queue: int) -> Any:
    """Start replicas on the open cluster, between two numbers by load; returns their handle.

    Args:
        queue: requests that may wait for a replica.
    """
    least, most = replicas
    deployment = serve.deployment(
        name=NAME,
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": worker_variables()}},
        max_ongoing_requests=2 * AT_A_TIME,
        max_queued_requests=queue,
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": AT_A_TIME / 2,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": 120.0,
        },
        health_check_period_s=5.0,
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )(Replica)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    return serve.run(deployment.bind(setup, max_bytes), name=NAME, route_prefix=None)


def _says(error: SourceError) -> bytes:
    return msgspec.json.encode({"error": str(error)})
