"""How a foreign classifier wants its image, as arithmetic on arrays and as the first nodes of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sdk.errors import UsageError


@dataclass(frozen=True)
class Conventions:
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
            raise UsageError(
                f"--mean, --std: expected three numbers each, and every std above 0, "
                f"got {self.mean}, {self.std}"
            )

    def apply(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the classifier takes for ``images`` (B, 3, H, W), RGB in [0, 1]."""
        ordered = images if self.color == "rgb" else images[:, ::-1]
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        scaled = (ordered * np.float32(self.range) - mean) / std
        return np.ascontiguousarray(scaled if self.layout == "nchw" else scaled.transpose(0, 2, 3, 1))

    def nodes(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The same in a graph: nodes and their weights, from the value ``image`` to the value ``given``."""
        mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        weights = {
            "front_order": np.array([2, 1, 0], np.int64),
            "front_scale": np.float32(self.range) / std,
            "front_shift": mean / std,
        }
        steps: list[tuple[str, list[str], dict[str, Any]]] = []
        if self.color == "bgr":
            steps.append(("Gather", ["front_order"], {"axis": 1}))
        steps += [("Mul", ["front_scale"], {}), ("Sub", ["front_shift"], {})]
        if self.layout == "nhwc":
            steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
        made, nodes = "image", []
        for operator, others, attributes in steps:
            last, made = made, f"front_{operator}"
            nodes.append(helper.make_node(operator, [last, *others], [made], name=made, **attributes))
        nodes[-1].output[0] = "given"
        return nodes, [numpy_helper.from_array(values, name) for name, values in weights.items()]
