"""Per-user cache of regenerable files, writable only by its owner.

It holds built engines, which are code, and measurements of this machine.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from sdk.errors import BackendError


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/edge-purify``, or ``~/.cache/edge-purify``; it need not exist.

    Raises:
        BackendError: neither is known, as for a user without an entry in the password file.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):  # noqa: PTH117  the XDG specification says that a relative path is to be ignored
        return Path(home) / "edge-purify"
    try:
        return Path.home() / ".cache" / "edge-purify"
    except RuntimeError:
        raise BackendError(
            "cache: no home folder is known", hint="set XDG_CACHE_HOME to a folder of your own"
        ) from None


def make_private(folder: Path) -> None:
    """Create ``folder``, which lies in the cache, for this user alone.

    Raises:
        BackendError: others may write to the cache, or there is no place for one.
        OSError: it can't be created.
    """
    root = cache_root()
    root.parent.mkdir(parents=True, exist_ok=True)
    inside = folder.relative_to(root)
    for level in (root, *(root / part for part in reversed([inside, *inside.parents[:-1]]))):
        level.mkdir(mode=0o700, exist_ok=True)
    check_private(root)


def check_private(folder: Path) -> None:
    """Refuse a folder that someone else owns or may write to.

    Raises:
        BackendError: the folder is there, and isn't the user's alone; or the user may not even look.
    """
    try:
        found = folder.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackendError(
            f"{folder}: can't be used as a cache: {error.strerror}",
            hint="set XDG_CACHE_HOME to a folder of your own",
        ) from None
    if found.st_uid != os.geteuid():
        raise BackendError(
            f"{folder}: belongs to user {found.st_uid}, expected {os.geteuid()}: engines are code, and "
            "another's aren't loaded",
            hint="set XDG_CACHE_HOME to a folder of your own",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendError(
            f"{folder}: others may write there (mode {stat.S_IMODE(found.st_mode):04o}): engines are code, "
            "and these aren't loaded",
            hint=f"delete the folder, or, if you trust what is in it: chmod 700 {shlex.quote(str(folder))}",
        )
