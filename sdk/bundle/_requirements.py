"""What a device may ask of a signed bundle: a lowest version, a purpose, and no version before the last."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sdk.bundle.manifest import Manifest
from sdk.errors import BundleError, UsageError
from sdk.files import lock_file, write_atomically

MAX_DIGITS = 20


@dataclass(frozen=True)
class Requirements:
    """See ``Bundle.open``; each holds of the signed manifest, so each needs a public key."""

    min_version: int | None
    purpose: str | None
    remember_version: bool

    def check(self, *, has_key: bool) -> None:
        """
        Raises:
            UsageError: something is asked that only a signature can vouch for, and none is required.
        """
        asked = {
            "min_version": self.min_version is not None,
            "purpose": self.purpose is not None,
            "remember_version": self.remember_version,
        }
        if not has_key and any(asked.values()):
            name = next(name for name, is_asked in asked.items() if is_asked)
            raise UsageError(
                f"{name}: only a signature vouches for it, and none is required",
                hint="give the public key too, by public_key or --require-signature",
            )
        if self.min_version is not None and self.min_version < 1:
            raise UsageError(f"min_version: expected at least 1, got {self.min_version}")

    def hold(self, root: Path, manifest: Manifest, signed_by: str) -> None:
        """
        Raises:
            BundleError: the bundle is too old, or for another purpose.
        """
        if self.purpose is not None and manifest.purpose != self.purpose:
            got = "none" if manifest.purpose is None else repr(manifest.purpose)
            raise BundleError(
                f"bundle {root}: expected the purpose {self.purpose!r}, got {got}",
                hint="get the bundle that was signed for this purpose",
            )
        lowest, why = self.min_version, "required"
        if self.remember_version:
            highest = _read(_state_file(signed_by, manifest))
            if highest is not None and highest > (lowest or 0):
                lowest, why = highest, "the highest opened before"
            if manifest.version is None:
                raise BundleError(
                    f"bundle {root}: it has no version to be remembered",
                    hint="sign it with one: edge-export sign --bundle-version N",
                )
        if lowest is not None and (manifest.version is None or manifest.version < lowest):
            got = "none" if manifest.version is None else str(manifest.version)
            raise BundleError(
                f"bundle {root}: expected version {lowest} or later ({why}), got {got}",
                hint="get a newer bundle",
            )

    def remember(self, root: Path, manifest: Manifest, signed_by: str) -> None:
        """Raise the remembered version to that of the bundle, which has been opened.

        Raises:
            BundleError: it can't be stored.
        """
        if not self.remember_version or manifest.version is None:
            return
        path = _state_file(signed_by, manifest)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(path):
                highest = _read(path)
                if highest is None or highest < manifest.version:
                    write_atomically(path, f"{manifest.version}\n")
        except OSError as error:
            raise BundleError(
                f"bundle {root}: its version can't be remembered in {path}: {error.strerror or error}",
                hint="make the folder writable, or set XDG_STATE_HOME to one of your own",
            ) from None


def _state_file(signed_by: str, manifest: Manifest) -> Path:
    """Where the highest version is kept: for each key and purpose, or bundle's name where there is none."""
    home = os.environ.get("XDG_STATE_HOME", "")
    try:
        state = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"  # noqa: PTH117
    except RuntimeError:
        raise BundleError(
            "no home folder is known, so no version can be remembered",
            hint="set XDG_STATE_HOME to a folder of your own",
        ) from None
    scope = f"purpose {manifest.purpose}" if manifest.purpose is not None else f"name {manifest.name}"
    digest = hashlib.sha256(f"{signed_by} {scope}".encode()).hexdigest()
    return state / "edge-purify" / "versions" / f"{digest[:32]}.txt"


def _read(path: Path) -> int | None:
    """The version remembered in ``path``; None if none is.

    Raises:
        BundleError: the file is there and can't be read: an unreadable memory must not pass as none.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        if len(text) > MAX_DIGITS:
            raise ValueError("expected a number")
        return int(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "expected a number"
        raise BundleError(
            f"{path}: the remembered version can't be read: {reason}", hint="delete the file to forget it"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``, so that of two processes the higher version stays."""
    with lock_file(path.with_suffix(".lock")) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
