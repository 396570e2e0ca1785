"""Base class and number types of all config sections."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Few = Annotated[int, msgspec.Meta(ge=1, le=1024)]  #: layers, members, heads
Many = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]  #: channels, atoms, classes
Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]  #: of an image, in pixels
#: Height and width. As tuple[Side, Side], msgspec 0.22 would crash where the alternative is a bounded int.
Sides = Annotated[tuple[Side, ...], msgspec.Meta(min_length=2, max_length=2)]
Weight = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Base of all sections: an unknown key is an error."""
