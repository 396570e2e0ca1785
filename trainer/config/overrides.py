"""``--set section.key=value``: change keys of a config before it is validated.

The value is read as TOML, a bare word as a string. Another ``model.family`` leaves the file's purifier out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from sdk.errors import UsageError

FAMILY = ("model", "family")


def override(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Change ``tree``, a decoded config, by each ``section.key=value``.

    Raises:
        UsageError: one of them has another form, or names a value as a section.
    """
    for text in sorted(overrides, key=_is_not_of_family):
        _override(tree, text)


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, leaf = key.strip().split(".")
    if not equals or not leaf:
        raise UsageError(f"--set {override}: expected section.key=value, for example optimizer.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word is a string
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UsageError(f"--set {override}: {section!r} is a value, not a section")
    if (*sections, leaf) == FAMILY and tree.get(leaf) != value:
        tree.pop("purifier", None)  # its keys are the other family's
    tree[leaf] = value


def _is_not_of_family(override: str) -> bool:
    """Sorts the family first, so that it drops the file's purifier and none that an override describes."""
    return tuple(override.partition("=")[0].strip().split(".")) != FAMILY
