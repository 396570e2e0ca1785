"""The ONNX files: the same bytes every time, clean of traces, static, folded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export.torch_to_onnx import ExportError, engine_bytes

ENGINES = ("purifier-00", "purifier-01", "purifier-02", "classifier-00", "classifier-01")


@pytest.fixture(params=ENGINES)
def file(request: pytest.FixtureRequest, exported: Path) -> Path:
    return exported / "onnx" / f"{request.param}.fp32.onnx"


def strings(message: Any) -> Iterator[str]:
    """Every string in a protobuf message and all inside it."""
    for field, value in message.ListFields():
        for item in value if hasattr(value, "__len__") and not isinstance(value, (str, bytes)) else (value,):
            if isinstance(item, str):
                yield item
            elif field.message_type is not None:
                yield from strings(item)


def test_exporting_twice_gives_the_same_bytes(loaded: Any, exported: Path) -> None:
    again = engine_bytes(
        loaded.defence.single_purifier(1),
        {"image": torch.rand(1, 3, 16, 16), "atom_mask": torch.ones(1, 24)},
        output="purified",
        name="purifier-01",
    )
    assert again == (exported / "onnx" / "purifier-01.fp32.onnx").read_bytes()


def test_a_file_tells_nothing_of_its_making(file: Path) -> None:
    model = onnx.load(file)
    found = list(strings(model))
    assert len(found) > 50  # the walk does see the graph
    assert not [text for text in found if re.search(r"[/\\]|\.py|torch|site-packages", text)]
    for trace in (
        b"site-packages",
        b".py",
        b"torch",
        str(Path.cwd()).encode(),
        str(Path.home()).encode() + b"/",
    ):
        assert trace not in file.read_bytes()


def test_header_is_pinned(file: Path) -> None:
    model = onnx.load(file)
    assert (model.ir_version, model.producer_name) == (10, "edge-purify")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.graph.name == file.name.removesuffix(".fp32.onnx")


def test_inputs_outputs_and_every_shape_between_are_static(file: Path) -> None:
    graph = onnx.load(file).graph
    ends = [(value.name, [d.dim_value for d in value.type.tensor_type.shape.dim]) for value in graph.input]
    image = ("image", [1, 3, 16, 16])
    assert ends == ([image, ("atom_mask", [1, 24])] if "purifier" in file.name else [image])
    assert [value.name for value in graph.output] == ["purified" if "purifier" in file.name else "logits"]
    inferred = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    made = {name for node in graph.node for name in node.output} - {value.name for value in graph.output}
    assert made == set(inferred)
    assert all(dim.dim_value > 0 for dims in inferred.values() for dim in dims)


def test_batch_norms_are_folded_and_nodes_are_named_by_operator_and_order(exported: Path) -> None:
    nodes = onnx.load(exported / "onnx" / "classifier-00.fp32.onnx").graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert not [node for node in nodes if node.op_type == "BatchNormalization"]
    assert [node.name for node in convolutions] == [f"Conv_{n}" for n in range(len(convolutions))]
    assert all(len(node.input) == 3 for node in convolutions), "the norms' shifts became biases"


def test_a_module_that_fails_without_a_word_is_named() -> None:
    class Silent(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    with pytest.raises(
        ExportError, match=r"^purifier-07: Silent can't be exported to ONNX opset 18: NotImplementedError$"
    ):
        engine_bytes(Silent(), {"image": torch.rand(1, 3, 8, 8)}, output="purified", name="purifier-07")


def test_a_module_that_onnx_cannot_hold_is_one_clear_line(capfd: pytest.CaptureFixture[str]) -> None:
    class Branching(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.sum() > 0 else -image

    with pytest.raises(
        ExportError, match=r"^purifier-07: Branching can't be exported to ONNX opset 18: "
    ) as caught:
        engine_bytes(Branching(), {"image": torch.rand(1, 3, 8, 8)}, output="purified", name="purifier-07")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
