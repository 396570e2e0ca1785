"""Address that the preview listens on: ``[HOST:]PORT``."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from sdk.errors import UsageError

LOCAL = "127.0.0.1"
MAX_PORT = 65535

_ADDRESS = re.compile(r"(?:(?P<host>[^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """A host's name or IP address, and a port; port 0 takes one that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``[HOST:]PORT``, such as ``8080``, ``0.0.0.0:8080`` or ``[::1]:8080``; without HOST, 127.0.0.1.

        Raises:
            UsageError: it is something else.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found["port"]) > MAX_PORT:
            raise UsageError(
                f"--serve {text}: expected [HOST:]PORT, such as 8080, 0.0.0.0:8080 or [::1]:8080"
            )
        return cls((found["host"] or LOCAL).strip("[]"), int(found["port"]))

    @property
    def url(self) -> str:
        """The page's address, under the machine's name where the preview listens on every interface."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
