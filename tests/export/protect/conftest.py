"""What a user brings: a small classifier of three textures, and a folder of pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

LABELS = ("rows", "columns", "checks")  # not in alphabetical order, as the folders are
SIDE = 16
A_CLASS = 60
MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Brought:
    """A user's files."""

    classifier: Path
    pictures: Path
    labels: Path

    @property
    def arguments(self) -> tuple[object, ...]:
        """Of ``edge-protect``, with the conventions that the classifier needs."""
        conventions = ("--mean", f"{MEAN},{MEAN},{MEAN}", "--std", f"{STD},{STD},{STD}")
        return (self.classifier, "--pictures", self.pictures, "--labels", self.labels, *conventions)


@pytest.fixture(scope="package")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Brought:
    """Shared, so never changed."""
    folder = tmp_path_factory.mktemp("brought")
    pixels, targets = textures(A_CLASS, seed=0)
    for place, (image, target) in enumerate(zip(pixels, targets.tolist(), strict=True)):
        path = folder / "pictures" / LABELS[target] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image.transpose(1, 2, 0)[:, :, ::-1])
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    write_onnx(trained(pixels, targets), folder / "my-net.onnx")
    return Brought(folder / "my-net.onnx", folder / "pictures", folder / "labels.txt")


def textures(a_class: int, *, seed: int) -> tuple[np.ndarray, Tensor]:
    """Red-and-dark stripes or checks of random phase and contrast: uint8 (N, 3, SIDE, SIDE), labels (N,)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    images, targets = [], []
    for target in range(len(LABELS)):
        for _ in range(a_class):
            rows, columns = ((place + rng.integers(4)) // 2 % 2 for place in (y, x))
            pattern = (rows, columns, rows ^ columns)[target]
            tint = np.array([0.9, 0.45, 0.2]) * rng.uniform(0.6, 1.0)
            image = 0.15 + pattern * tint[:, None, None] * 0.7 + rng.normal(0, 0.05, (3, SIDE, SIDE))
            images.append(image.clip(0, 1))
            targets.append(target)
    pixels = (np.stack(images) * 255).round().astype(np.uint8)
    return pixels, torch.tensor(targets)


def trained(pixels: np.ndarray, targets: Tensor) -> nn.Sequential:
    """A convolution and a linear layer on its mean response."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, len(LABELS)),
        )
        images = (torch.from_numpy(pixels).float() / 255 - MEAN) / STD
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(images), targets).backward()
            optimizer.step()
    assert float((model(images).argmax(1) == targets).float().mean()) > 0.95
    return model


def write_onnx(model: nn.Sequential, path: Path) -> None:
    """As an exporter would write it, for any batch."""
    weights = {name.replace(".", "_"): value.detach().numpy() for name, value in model.state_dict().items()}
    nodes = [
        helper.make_node(
            "Conv", ["image", "0_weight", "0_bias"], ["conv"], pads=[2, 2, 2, 2], strides=[2, 2], name="conv"
        ),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "4_weight", "4_bias"], ["scores"], transB=1, name="gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(LABELS)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
