"""Eleven of torchvision's architectures at 224 x 224: ONNX Runtime's outputs and torch's gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from trainer.models.onnx_graph import OnnxGraph

SIDE = 224
ARCHITECTURES = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny",
    "vit_b_32", "squeezenet1_1", "densenet121", "shufflenet_v2_x0_5", "swin_t",
)  # fmt: skip


def torchvision_models() -> Any:
    """torchvision's models."""
    try:
        import torchvision
    except ImportError:
        pytest.skip("torchvision isn't installed: pip install --no-deps torchvision")
    except RuntimeError:
        pytest.skip("torchvision is built for another torch")
    return torchvision.models


def network(models: Any, name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(models, name)(weights=None)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics as uneven as after training
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
            elif isinstance(module, nn.Linear) and not module.weight.any():  # a head that isn't trained yet
                nn.init.normal_(module.weight, std=0.02)
    result: nn.Module = made.eval()
    return result


def exported(net: nn.Module) -> bytes:
    """As a user exports it: for one image."""
    image = torch.zeros(1, 3, SIDE, SIDE, dtype=next(net.parameters()).dtype)
    program = torch.onnx.export(net, (image,), dynamo=True, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_are_onnxruntimes_and_gradients_torchs(name: str) -> None:
    net = network(torchvision_models(), name)
    content = exported(net)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    expected = np.concatenate([session.run(None, {given.name: image[None].numpy()})[0] for image in images])
    with torch.no_grad():
        found = OnnxGraph(Path(f"{name}.onnx"), content=content)(images)
    assert relative(found, torch.from_numpy(expected)) < 1e-4
    # in double precision: in single, rounding alone puts some of a million rectifiers on their other side
    graph = OnnxGraph(Path(f"{name}.onnx"), content=exported(net.double()))
    gradients = []
    for model in (graph, net):
        leaf = images.double().requires_grad_()
        model(leaf)[:, ::7].sum().backward()
        gradients.append(leaf.grad)
    assert gradients[1].abs().max() > 0
    assert relative(*gradients) < 1e-3
