"""Error messages for configs: the key, what was expected with all choices, and what was given, in a line.

msgspec's messages lack one or the other; this completes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect


def explain(error: msgspec.ValidationError, expected: type[msgspec.Struct], tree: dict[str, Any]) -> str:
    """Complete what ``error`` says of ``tree``, which is no ``expected``."""
    text, _, path = str(error).partition(" - at `$")
    keys = re.findall(r"[^.\[\]`]+", path)
    if found := re.fullmatch(r"Object contains unknown field `(.+)`", text):
        known = ", ".join(field.encode_name for field in _section(expected, keys, tree).fields)
        return f"{_dotted([*keys, found[1]])}: no such key; expected one of {known}"
    if found := re.fullmatch(r"Object missing required field `(.+)`", text):
        choices = _choices(expected, [*keys, found[1]], tree)
        return f"{_dotted([*keys, found[1]])}: missing" + (f"; expected {choices}" if choices else "")
    if not text.startswith(("Expected", "Invalid")):  # a section's own words, which begin with its key
        return f"{_dotted(keys)}.{text}" if keys else text
    choices = _choices(expected, keys, tree)
    wanted = f"expected {choices}" if choices else f"e{text[1:]}".partition(", got")[0]
    wanted = wanted.replace("`object`", "a section").replace("`", "")
    return f"{_dotted(keys)}: {wanted}, got {_value(keys, tree)!r}"


def _choices(expected: type[msgspec.Struct], keys: Sequence[str], tree: dict[str, Any]) -> str:
    """'one of ...', where there is a choice: the values of a literal, the tags of a union of sections."""
    if not keys or keys[-1].isdigit():  # the whole, or a place in a list of numbers
        return ""
    *sections, leaf = keys
    kinds = _kinds(expected, sections, tree)
    values = [kind.tag for kind in kinds if kind.tag_field == leaf]
    if not values:
        kind = next((field.type for field in kinds[0].fields if field.encode_name == leaf), None)
        values = list(kind.values) if isinstance(kind, inspect.LiteralType) else []
    return f"one of {', '.join(map(str, values))}" if values else ""


def _section(expected: type[msgspec.Struct], keys: Sequence[str], tree: dict[str, Any]) -> inspect.StructType:
    """The type of the section ``keys`` of ``tree``: of several, the one that its tag names."""
    kinds = _kinds(expected, keys, tree)
    section = _value(keys, tree)
    return next(
        (kind for kind in kinds if kind.tag_field and section.get(kind.tag_field) == kind.tag), kinds[0]
    )


def _kinds(
    expected: type[msgspec.Struct], keys: Sequence[str], tree: dict[str, Any]
) -> list[inspect.StructType]:
    """The types that the section ``keys`` of ``tree`` may have: several, if a tag decides."""
    if not keys:
        kind: inspect.Type = inspect.type_info(expected)
    else:
        parent = _section(expected, keys[:-1], tree)
        kind = next(field.type for field in parent.fields if field.encode_name == keys[-1])
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return [kind for kind in kinds if isinstance(kind, inspect.StructType)]


def _value(keys: Sequence[str], tree: Any) -> Any:
    for key in keys:
        tree = tree[int(key) if isinstance(tree, list | tuple) else key]
    return tree


def _dotted(keys: Sequence[str]) -> str:
    return ".".join(keys)
