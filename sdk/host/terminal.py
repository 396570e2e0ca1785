"""Text for a terminal, with the control characters of labels, ids and file names escaped.

A label or a file's name may come from a stranger's bundle. Raw, an escape sequence in it could rewrite what
is on the screen, or make a terminal type. So the commands print by ``echo`` alone, and what they give to
rich goes through ``escape``.
"""

from __future__ import annotations

import re

import click

_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line separators, and what reverses the reading direction
    "\ud800-\udfff]"  # bytes of a file's name that aren't UTF-8
)


def printable(text: object, *, keep: str = "") -> str:
    r"""``str(text)`` with every control character as ``\u001b``, but those in ``keep``.

    That is how JSON writes them, so JSON text stays JSON.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", str(text))


def echo(text: object = "", *, err: bool = False) -> None:
    """Print lines of text on standard output, or on standard error with ``err``."""
    click.echo(printable(text, keep="\n\t"), err=err)


def escape(text: object) -> str:
    """``text`` as rich's markup shows it literally."""
    from rich.markup import escape as escape_markup

    return escape_markup(printable(text))
