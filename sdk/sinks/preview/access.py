"""Access control of the preview: a token for every request, and no request on behalf of another web site."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

OPEN_PATHS = frozenset({"/healthz", "/page.css", "/page.js", "/icon.svg"})  # they hold no secret
PAGE = "/"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Guard:
    """Admits those who know the token, on this machine too: other users and web pages share it."""

    token: str

    @classmethod
    def of(cls, token: str | None) -> Guard:
        """The guard by ``token``, or by a fresh one if that is None or empty."""
        return cls(token or secrets.token_urlsafe(16))

    def admits(self, token: str | None) -> bool:
        """Whether a request that brought ``token`` may be answered."""
        given = (token or "").encode(errors="surrogateescape")  # a header may hold any bytes
        return hmac.compare_digest(given, self.token.encode(errors="surrogateescape"))

    @property
    def query(self) -> str:
        """What to append to the page's address."""
        return f"?token={quote(self.token, safe='')}"


def is_cross_site(path: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser sent this request for another site's page.

    Another port of this machine is another site here. A link to the page may be followed from anywhere: what
    it opens is a tab of its own, which the other site can't read.
    """
    site = headers.get("Sec-Fetch-Site", "none")
    if site not in ("same-origin", "none"):
        is_visit = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
        return not (path == PAGE and is_visit)
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()
