"""An ONNX graph in torch beside the network that it was exported from: time of a forward and backward pass.

    python benchmarks/onnx_graph.py resnet18 mobilenet_v2 --side 224 --batch 8

Names are those of torchvision's models, or ``edge``: the classifier of this project. Both take turns, and the
ratio is that of the medians, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from trainer.models.classifier import DiverseClassifier, SingleClassifier, edge_network
from trainer.models.onnx_graph import OnnxGraph


def network(name: str) -> nn.Module:
    """Untrained, in eval mode."""
    torch.manual_seed(0)
    if name == "edge":
        return SingleClassifier(DiverseClassifier(edge_network(10), n_classes=10, n_classifiers=1), 0).eval()
    from torchvision import models

    made: nn.Module = getattr(models, name)(weights=None)
    return made.eval()


def ratio(net: nn.Module, side: int, batch: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of a pass through ``net``, and how many times as long its graph takes."""
    program = torch.onnx.export(net, (torch.zeros(1, 3, side, side),), dynamo=True, verbose=False)
    assert program is not None
    content = program.model_proto.SerializeToString()
    graph = OnnxGraph(Path("network.onnx"), content=content).requires_grad_(False)
    net.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    times: dict[nn.Module, list[float]] = {net: [], graph: []}
    for turn in range(rounds + 1):
        for model, seconds in times.items():
            leaf = images.clone().requires_grad_()
            start = time.perf_counter()
            model(leaf).sum().backward()
            if turn:  # the first one makes plans and caches
                seconds.append(time.perf_counter() - start)
    own, graphs = (statistics.median(seconds) for seconds in times.values())
    return 1000 * own, graphs / own


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    for name in given.names:
        milliseconds, times = ratio(network(name), given.side, given.batch, given.rounds)
        print(f"{name}: {milliseconds:.0f} ms in torch, its ONNX graph {times:.2f} times that", flush=True)


if __name__ == "__main__":
    main()
