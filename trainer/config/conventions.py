"""How a classifier that users bring wants its image: one description for training and export."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer.config.section import Section


class Conventions(Section, frozen=True):
    """How a classifier wants its image.

    Attributes:
        mean, std: of each channel, in the model's range and its order of colours.
        layout: order of the axes.
        color: order of the channels.
        range: the value of white, 1 or 255.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    layout: Literal["nchw", "nhwc"] = "nchw"
    color: Literal["rgb", "bgr"] = "rgb"
    range: Literal[1, 255] = 1

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ValueError(
                f"mean, std: expected three numbers each, and every std above 0, got {self.mean}, {self.std}"
            )

    def apply(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the classifier takes for ``images`` (B, 3, H, W), RGB in [0, 1]."""
        ordered = images if self.color == "rgb" else images[:, ::-1]
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        scaled = (ordered * np.float32(self.range) - mean) / std
        return np.ascontiguousarray(scaled if self.layout == "nchw" else scaled.transpose(0, 2, 3, 1))
