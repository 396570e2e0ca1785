"""How a Purifier of the fleet is loaded: plain data, which travels to other processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdk.bundle import Bundle, default_bundle
from sdk.purifier import Purifier


@dataclass(frozen=True)
class Setup:
    """Arguments of ``Purifier.load``.

    Attributes:
        bundle: its folder, under the same path on every machine; None is the one that ships with the package.
        public_key: the PEM file of the key that must have signed it.
    """

    bundle: str | None = None
    backend: str = "auto"
    precision: str = "auto"
    votes: int = 1
    suspicion: bool = False
    min_score: float = 0.0
    hide_draw: bool = False
    public_key: str | None = None

    def absolute(self) -> Setup:
        """The same for a process in another working directory."""
        from dataclasses import replace

        return replace(self, bundle=_absolute(self.bundle), public_key=_absolute(self.public_key))

    def open_bundle(self) -> Bundle:
        """The bundle, verified.

        Raises:
            BundleError: it is missing, damaged or not signed as required.
        """
        return Bundle.open(self.bundle or default_bundle(), public_key=self.public_key)

    def load(self) -> Purifier:
        """A Purifier that says of a frame on which an engine failed that it did.

        Raises:
            EdgePurifyError: as ``Purifier.load``.
        """
        return Purifier.load(
            self.open_bundle(),
            backend=self.backend,
            precision=self.precision,
            votes=self.votes,
            on_error="skip",
            keep_purified=False,
            suspicion=self.suspicion,
            min_score=self.min_score,
            hide_draw=self.hide_draw,
        )


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
