"""Ray, started on this machine or joined: without a dashboard, and without reports to its vendor."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from sdk.errors import EdgePurifyError

INSTALL = "pip install 'edge-purify[ray]'"
TRIES = 2
CONNECT_S = 10.0
#: Of this process and all that Ray starts; a user who wants them otherwise sets them.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its logs are in /tmp/ray; what matters raises
}


class ClusterError(EdgePurifyError):
    """Ray is absent, or its cluster can't be started, reached or asked."""


def require(*modules: str) -> None:
    """Refuse to go on without Ray, or another of ``modules``.

    Raises:
        ClusterError: one is not installed; the hint is the command that installs it.
    """
    for module in ("ray", *modules):
        if find_spec(module) is None:
            raise ClusterError(f"{module}: not installed", hint=INSTALL)


@contextmanager
def open_cluster(address: str | None = None, *, cpus: int | None = None) -> Iterator[Any]:
    """Ray, connected to the cluster at ``address``, or to one of this machine's, which ends with the block.

    A program that is connected to a cluster already works on that one.

    Args:
        address: as ``ray start`` prints it, or "auto" for the one that runs on this machine.
        cpus: of a cluster of this machine's own, that it may use; all by default.

    Raises:
        ClusterError: Ray is absent, or doesn't start or answer.
    """
    require()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    silence()
    if ray.is_initialized():  # the program is connected already, and stays so
        yield ray
        return
    if address:
        _require_answer(address)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        _start(ray, address or "local", own, tries=1 if address else TRIES)
    except Exception as error:  # Ray raises bare exceptions, too
        what = f"cluster {address}: can't be reached" if address else "Ray doesn't start on this machine"
        raise ClusterError(f"{what}: {one_line(error)}") from None
    finally:
        for number, handler in before.items():  # Ray puts its own in their place
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Refuse an address ``HOST:PORT`` where nobody listens, which Ray would try for minutes.

    Raises:
        ClusterError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"cluster {address}: can't be reached: {one_line(error)}") from None


def silence() -> None:
    """Keep Ray's own lines from the terminal; importing a part of it sets its loggers up anew."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "ray"]
    for name in ("ray", *names):
        logging.getLogger(name).setLevel(logging.ERROR)


def _start(ray: Any, address: str, own: dict[str, Any], *, tries: int) -> None:
    """Connect; on a busy machine Ray, which gives its processes half a minute, may need several ``tries``."""
    how = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False, **own}
    while True:
        tries -= 1
        try:
            ray.init(address, **how)
            return
        except Exception:  # of many kinds, which share no base; the last is raised
            ray.shutdown()
            if not tries:
                raise


def worker_variables() -> dict[str, str]:
    """Environment of a process that decodes strangers' pictures on one CPU."""
    from sdk.fleet.pictures import MAX_PIXELS

    return {**QUIET, "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS), "EDGE_PURIFY_CPUS": "1"}


def one_line(error: BaseException) -> str:
    """The first line of a message, since Ray's run over many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
