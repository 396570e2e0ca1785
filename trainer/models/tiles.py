"""Images cut into square tiles and put together again, in operators that every inference engine takes.

An image of any size is covered by tiles in rows and columns, the last of them filled up with the image's last
row and column. Where neighbours overlap, they are blended by ramps across the overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """A tiling of images of one size.

    Attributes:
        height, width: of the images, in pixels.
        side: of a tile.
        overlap: of neighbouring tiles, in pixels; at most half of a side.
    """

    height: int
    width: int
    side: int
    overlap: int = 0

    @property
    def rows(self) -> int:
        return self._count(self.height)

    @property
    def columns(self) -> int:
        return self._count(self.width)

    @property
    def count(self) -> int:
        """Tiles of an image."""
        return self.rows * self.columns

    def cut(self, images: Tensor) -> Tensor:
        """(B, C, height, width) to (B * count, C, side, side), row by row of each image."""
        channels, side = images.shape[1], self.side
        if (self.height, self.width) == (side, side):
            return images
        tall = images.index_select(2, _places(self.height, self.rows, self._step, side, images.device))
        whole = tall.index_select(3, _places(self.width, self.columns, self._step, side, images.device))
        grid = whole.reshape(-1, channels, self.rows, side, self.columns, side)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)

    def join(self, tiles: Tensor) -> Tensor:
        """The inverse of ``cut``."""
        if (self.height, self.width) == (self.side, self.side):
            return tiles
        channels, side = tiles.shape[1], self.side
        grid = tiles.reshape(-1, self.rows, self.columns, channels, side, side)
        whole = grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, self.rows * side, self.columns * side)
        return self._blended(self._blended(whole, 2, self.height, self.rows), 3, self.width, self.columns)

    @property
    def _step(self) -> int:
        return self.side - self.overlap

    def _count(self, size: int) -> int:
        return max(1, -(-(size - self.overlap) // self._step))

    def _blended(self, whole: Tensor, axis: int, size: int, count: int) -> Tensor:
        """Along one axis, pixels of neighbouring tiles that lie over each other as one."""
        first, second, share = [], [], []
        for place in range(size):
            tile = min(place // self._step, count - 1)
            inside = place - tile * self._step
            first.append(tile * self.side + inside)
            is_shared = tile > 0 and inside < self.overlap
            second.append((tile - 1) * self.side + inside + self._step if is_shared else first[-1])
            share.append((inside + 0.5) / self.overlap if is_shared else 1.0)
        pixels = whole.index_select(axis, torch.tensor(first, device=whole.device))
        if not self.overlap:
            return pixels
        before = whole.index_select(axis, torch.tensor(second, device=whole.device))
        weight = torch.tensor(share, dtype=whole.dtype, device=whole.device)
        weight = weight.view(-1, 1) if axis == 2 else weight
        return before + weight * (pixels - before)


def _places(size: int, count: int, step: int, side: int, device: torch.device) -> Tensor:
    """Where the pixels of all tiles along one axis come from, (count * side,)."""
    places = [min(tile * step + inside, size - 1) for tile in range(count) for inside in range(side)]
    return torch.tensor(places, device=device)
