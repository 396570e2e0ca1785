"""The service: replicas on a Ray cluster, and the gateway of this process before them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sdk.errors import UsageError
from sdk.fleet import cluster
from sdk.fleet.setup import Setup
from sdk.sinks.preview.access import Guard
from sdk.sinks.preview.address import Address
from sdk.sinks.preview.sink import TOKEN_VARIABLE

STATUS_EVERY_S = 2.0


@dataclass(frozen=True)
class Offer:
    """What is served.

    Attributes:
        address: that the gateway listens on.
        setup: of the Purifiers.
        replicas: the least and the greatest number of them.
        max_bytes: of a request.
        pending: requests at a time.
        cluster: Ray's address; None starts it on this machine.
    """

    address: Address
    setup: Setup = field(default_factory=Setup)
    replicas: tuple[int, int] = (1, 1)
    max_bytes: int = 8 << 20
    pending: int = 64
    cluster: str | None = None


def parse_replicas(text: str) -> tuple[int, int]:
    """``N`` or ``LEAST:MOST``.

    Raises:
        UsageError: it is neither.
    """
    least, _, most = text.partition(":")
    numbers = (least, most or least)
    if not all(each.isascii() and each.isdecimal() and len(each) < 5 for each in numbers):
        raise UsageError(f"--replicas {text}: expected N or LEAST:MOST, as 1:8")
    found = int(numbers[0]), int(numbers[1])
    if not 1 <= found[0] <= found[1]:
        raise UsageError(f"--replicas {text}: expected 1 <= LEAST <= MOST")
    return found


def serve(offer: Offer, *, on_open: Callable[[str, str | None], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        on_open: told the address and a fresh token as soon as requests are answered; None for the token if it
            is the user's own, which has no place in a log.

    Raises:
        EdgePurifyError: the bundle or the cluster can't be had, or the address can't be listened on.
    """
    cluster.require("aiohttp", "prometheus_client")
    setup = offer.setup.absolute()
    bundle = setup.open_bundle()
    with cluster.open_cluster(offer.cluster) as ray:
        from sdk.fleet.gateway import Gateway, Limits
        from sdk.fleet.replica import start

        try:
            handle = start(setup, max_bytes=offer.max_bytes, replicas=offer.replicas, queue=2 * offer.pending)
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise cluster.ClusterError(f"the replicas don't start: {cluster.one_line(error)}") from None
        own = os.environ.get(TOKEN_VARIABLE)
        guard = Guard.of(own)
        gateway = Gateway(
            bundle, guard, Replicas(handle).ask, Status().healthy, Limits(offer.max_bytes, offer.pending)
        )
        asyncio.run(
            _until_stopped(gateway, offer.address, lambda url: on_open(url, None if own else guard.token))
        )


async def _until_stopped(gateway: Any, address: Address, on_open: Callable[[str], None]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, stop.set)

    def on_listening(port: int) -> None:
        on_open(Address(address.host, port).url)

    try:
        await gateway.serve(address.host, address.port, stop=stop, on_listening=on_listening)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "that is no host's name"
        raise UsageError(f"--serve {address}: this machine can't listen there: {reason}") from None
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
    raise KeyboardInterrupt  # what ended it


class Replicas:
    """Asks the replicas through Serve's handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def ask(self, data: bytes, index: int, source: str) -> tuple[int, bytes]:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        from sdk.fleet.gateway import Full, Lost

        try:
            answer: tuple[int, bytes] = await self._handle.remote(data, index, source)
        except BackPressureError:
            raise Full from None
        except RayActorError:
            raise Lost from None
        return answer


class Status:
    """Whether a replica runs, asked of Serve every other second at most."""

    def __init__(self) -> None:
        self._asked = 0.0
        self._healthy = True

    def healthy(self) -> bool:
        from ray import serve
        from ray.exceptions import RayError

        from sdk.fleet.replica import NAME

        if time.monotonic() - self._asked > STATUS_EVERY_S:
            self._asked = time.monotonic()
            try:
                application = serve.status().applications[NAME]
                states = application.deployments[NAME].replica_states
                self._healthy = states.get("RUNNING", 0) > 0
            except (RayError, RuntimeError, KeyError):
                self._healthy = False
        return self._healthy
