"""The region of interest: the part of every frame that is purified and classified.

    for result in purifier.stream("clip.mp4", roi=Roi(x=320, y=180, width=640, height=360)):
        ...

Nothing outside it enters the resize, so no pixel outside it can change a label.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdk.arrays import Pixels
from sdk.errors import UsageError


@dataclass(frozen=True, slots=True)
class Roi:
    """A rectangle of whole pixels; ``x``, ``y`` is its upper left corner in the frame.

    Raises:
        UsageError: a negative corner, or no pixel in it.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            raise UsageError(
                f"roi {self}: expected a corner X,Y >= 0, and a width and height >= 1, in pixels as X,Y,W,H"
            )

    @classmethod
    def parse(cls, text: str) -> Roi:
        """``X,Y,W,H`` as a region.

        Raises:
            UsageError: it is not four such numbers.
        """
        try:
            x, y, width, height = (int(number) for number in text.split(","))
        except ValueError:
            raise UsageError(
                f"roi {text}: expected X,Y,W,H, the left edge, upper edge, width and height in pixels, "
                "such as 320,180,640,360"
            ) from None
        return cls(x, y, width, height)

    def check(self, frame: Pixels, where: str) -> None:
        """Refuse a frame, which comes from ``where``, that the region does not lie in.

        Raises:
            UsageError: naming the frame's size.
        """
        height, width = frame.shape[:2]
        right, bottom = self.x + self.width, self.y + self.height
        if right > width or bottom > height:
            raise UsageError(
                f"roi {self}: reaches to {right},{bottom}, outside the {width} x {height} pixels of a frame "
                f"of {where}",
                hint=f"expected X+W <= {width} and Y+H <= {height}",
            )

    def crop(self, frame: Pixels) -> Pixels:
        """The region of a frame that it lies in: a view, ``(height, width, 3)``."""
        return frame[self.y : self.y + self.height, self.x : self.x + self.width]

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"
