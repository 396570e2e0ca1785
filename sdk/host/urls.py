"""What of a URL may be shown: its scheme and host, since any other part can hold a secret."""

from __future__ import annotations

import re

_STREAM = "rtsps?|rtmps?|srt|udp|tcp"
# one slash is what is left of two where the URL was taken for a path
_ANY = re.compile(rf"\b({_STREAM}|https?):/{{1,2}}([^\s'\"]*)", re.IGNORECASE)
_IS_STREAM = re.compile(_STREAM, re.IGNORECASE)
_LAST = ".,:;)]}"  # what a sentence puts behind a URL


def redact(url: str) -> str:
    """Scheme and host of a URL: all that may be shown."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    if "@" in rest[len(authority) :]:  # a password with a slash in it: where the host begins is a guess
        return f"{scheme}://***"
    named = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", host)
    return f"{scheme}://{named[1] if named else '***'}"


def without_secrets(text: str, *, keep_plain: bool = False) -> str:
    """``text`` with every URL in it reduced to scheme and host.

    A URL may stand where nobody expects one: as the value of another option, or as a command.

    Args:
        keep_plain: leave http and https URLs as they are that have neither a user nor a query.
    """

    def shown(found: re.Match[str]) -> str:
        scheme, rest = found[1], found[2]
        is_plain = _IS_STREAM.fullmatch(scheme) is None and "@" not in rest and "?" not in rest
        if keep_plain and is_plain:
            return found[0]
        end = rest[len(rest.rstrip(_LAST)) :]
        url = rest.removesuffix(end)
        if "[" in url and "]" not in url and "]" in end:  # of an IPv6 address
            url, end = f"{url}]", end.replace("]", "", 1)
        return redact(f"{scheme}://{url}") + end

    return _ANY.sub(shown, text)
