"""Where the preview listens, and who may look."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import quote

from sdk.errors import UsageError

LOCAL = "127.0.0.1"
HIGHEST_PORT = 65535

_ADDRESS = re.compile(r"(?:(?P<host>[^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})")
_LOCAL_NAMES = frozenset({"localhost", LOCAL, "[::1]"})


@dataclass(frozen=True)
class Address:
    """A host's name or IP address, and a port; port 0 takes one that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``[HOST:]PORT``, such as ``8080``, ``0.0.0.0:8080`` or ``[::1]:8080``; the host is this machine.

        Raises:
            UsageError: it is something else.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found["port"]) > HIGHEST_PORT:
            raise UsageError(
                f"--serve {text}: expected [HOST:]PORT, such as 8080, 0.0.0.0:8080 or [::1]:8080"
            )
        return cls((found["host"] or LOCAL).strip("[]"), int(found["port"]))

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """The page's address, under a name that others know where it listens on every interface."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Guard:
    """Lets those in who know the token; without a token, those who ask for this machine by a local name.

    The latter keeps out web pages that reach a local server through a name of their own (DNS rebinding).
    """

    token: str | None
    local_names: frozenset[str] = _LOCAL_NAMES

    @classmethod
    def of(cls, address: Address, token: str | None) -> Guard:
        """The guard of ``address``: by ``token`` if there is one, by a fresh one if others can reach it."""
        own = f"[{address.host}]" if ":" in address.host else address.host
        fresh = None if address.is_local else secrets.token_urlsafe(16)
        return cls(token or fresh, _LOCAL_NAMES | {own})

    def admits(self, host: str, token: str | None) -> bool:
        """Whether a request to ``host`` (its header, with or without the port) may be answered."""
        if self.token is not None:
            given = (token or "").encode(errors="surrogateescape")  # a header may hold any bytes
            return hmac.compare_digest(given, self.token.encode(errors="surrogateescape"))
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return name.lower() in self.local_names

    @property
    def query(self) -> str:
        """What to append to the page's address."""
        return f"?token={quote(self.token, safe='')}" if self.token is not None else ""
