"""Sections of a Markdown text that programs write: each between two comments that name it.

A section can be replaced by whoever knows its name, whatever it says.
"""

from __future__ import annotations


def section(name: str, content: str) -> str:
    """``content``, which ends with a newline, as the section ``name``."""
    return f"{_start(name)}\n{content}{_end(name)}\n"


def with_section(text: str, name: str, content: str, *, after: str | None = None) -> str:
    """``text`` with ``content`` as its section ``name``, in place of an earlier one.

    Where there is none yet, it goes below the heading ``after``, a whole line, or else to the end.
    """
    made = section(name, content)
    if _start(name) in text and _end(name) in text:
        before, rest = text.split(_start(name), 1)
        return before + made.removesuffix("\n") + rest.split(_end(name), 1)[1]
    before, heading, rest = text.partition(f"{after}\n") if after else (text, "", "")
    return f"{before}{heading}\n{made}\n{rest.lstrip()}" if heading else f"{text}\n{made}"


def _start(name: str) -> str:
    return f"<!-- {name}: start -->"


def _end(name: str) -> str:
    return f"<!-- {name}: end -->"
