"""ONNX's operators in torch, by name: those that image classifiers and purifiers are made of.

Each takes its node's inputs in order, None for one left out, and its attributes by keyword. An input that is
a shape, an axis or a bound never depends on the image, so it is given as Python numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.onnx_graph import arithmetic, layers, resizing, shapes
from trainer.models.onnx_graph.quantization import dequantize, fake_quantize

TYPES = {  # by ONNX's number of a type
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """How a node is computed.

    Attributes:
        run: the function.
        numbers: places of inputs that come as Python numbers, or lists of them.
        scalars: places of inputs that come as a Python number where they are one known number.
        takes: what it takes by keyword beside the attributes: "opset", "batch",
            "n_outputs", "single".
    """

    run: Callable[..., Tensor | tuple[Tensor, ...]]
    numbers: tuple[int, ...] = ()
    scalars: tuple[int, ...] = ()
    takes: tuple[str, ...] = ()


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    if to not in TYPES:
        raise ValueError(f"Cast: type {to} isn't known")
    return x.to(TYPES[to])


def _dropout(x: Tensor, ratio: Any = None, training: bool | None = None, **_: Any) -> Tensor:
    if training:
        raise ValueError("Dropout: expected a graph for inference")
    return x


def _resize(x: Tensor, *inputs: Any, opset: int, **attributes: Any) -> Tensor:
    if opset < 11:
        return resizing.upsample(x, *inputs, **attributes)
    return resizing.resize(x, *inputs, opset=opset, **attributes)


def _is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.isinf(x)
    return found & (((x < 0) & bool(detect_negative)) | ((x > 0) & bool(detect_positive)))


_PLAIN: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "ArgMax": shapes.arg_max,
    "Attention": layers.attention,
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": _cast,
    "CastLike": lambda x, like, *, saturate=1: x.to(like.dtype),
    "Ceil": torch.ceil,
    "Celu": arithmetic.celu,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Cos": torch.cos,
    "DepthToSpace": shapes.depth_to_space,
    "DequantizeLinear": dequantize,
    "Div": arithmetic.divide,
    "Dropout": _dropout,
    "Einsum": shapes.einsum,
    "Elu": arithmetic.elu,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "FakeQuantize": fake_quantize,
    "Flatten": shapes.flatten,
    "Floor": torch.floor,
    "GatherElements": shapes.gather_elements,
    "GatherND": shapes.gather_nd,
    "Gelu": arithmetic.gelu,
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_average_pool,
    "GlobalMaxPool": layers.global_max_pool,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": arithmetic.hard_sigmoid,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": layers.instance_norm,
    "IsInf": _is_inf,
    "IsNaN": torch.isnan,
    "LRN": layers.local_response_norm,
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": arithmetic.leaky_relu,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LpNormalization": arithmetic.normalize_lp,
    "MatMul": torch.matmul,
    "Max": arithmetic.largest,
    "MaxPool": layers.max_pool,
    "Mean": arithmetic.average,
    "Min": arithmetic.smallest,
    "Mish": F.mish,
    "Mod": arithmetic.modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "NonZero": shapes.non_zero,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": arithmetic.prelu,
    "RMSNormalization": layers.rms_norm,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "ScatterElements": shapes.scatter_elements,
    "ScatterND": shapes.scatter_nd,
    "Selu": arithmetic.selu,
    "Shape": shapes.shape_of,
    "Shrink": arithmetic.shrink,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Size": shapes.size_of,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "SpaceToDepth": shapes.space_to_depth,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": arithmetic.total,
    "Swish": arithmetic.swish,
    "Tanh": torch.tanh,
    "ThresholdedRelu": arithmetic.thresholded_relu,
    "Transpose": shapes.transpose,
    "Where": arithmetic.where,
    "Xor": torch.logical_xor,
}

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL1": arithmetic.reduce_l1,
    "ReduceL2": arithmetic.reduce_l2,
    "ReduceLogSum": arithmetic.reduce_log_sum,
    "ReduceLogSumExp": arithmetic.reduce_log_sum_exp,
    "ReduceMax": arithmetic.reduce_max,
    "ReduceMean": arithmetic.reduce_mean,
    "ReduceMin": arithmetic.reduce_min,
    "ReduceProd": arithmetic.reduce_product,
    "ReduceSum": arithmetic.reduce_sum,
    "ReduceSumSquare": arithmetic.reduce_sum_square,
}

OPERATORS: dict[str, Operator] = {
    **{name: Operator(run) for name, run in _PLAIN.items()},
    **{name: Operator(run, numbers=(1,)) for name, run in _REDUCTIONS.items()},
    "Clip": Operator(arithmetic.clip, numbers=(1, 2)),
    "Concat": Operator(shapes.concat, takes=("batch",)),
    "ConstantOfShape": Operator(shapes.constant_of_shape, numbers=(0,)),
    "CumSum": Operator(arithmetic.cumulative_sum, numbers=(1,)),
    "Expand": Operator(shapes.expand, numbers=(1,)),
    "Gather": Operator(shapes.gather, scalars=(1,)),
    "GroupNormalization": Operator(layers.group_norm, takes=("opset",)),
    "LogSoftmax": Operator(arithmetic.log_softmax, takes=("opset",)),
    "Pad": Operator(shapes.pad, numbers=(1, 2, 3)),
    "Pow": Operator(arithmetic.power, scalars=(1,)),
    "Range": Operator(shapes.sequence, numbers=(0, 1, 2)),
    "Reshape": Operator(shapes.reshape, numbers=(1,), takes=("batch", "single")),
    "Resize": Operator(_resize, numbers=(1, 2, 3), takes=("opset",)),
    "Slice": Operator(shapes.cut, numbers=(1, 2, 3, 4)),
    "Softmax": Operator(arithmetic.softmax, takes=("opset",)),
    "Split": Operator(shapes.split, numbers=(1,), takes=("n_outputs",)),
    "Squeeze": Operator(shapes.squeeze, numbers=(1,)),
    "Tile": Operator(shapes.tile, numbers=(1,)),
    "Trilu": Operator(shapes.triangle, numbers=(1,)),
    "Unsqueeze": Operator(shapes.unsqueeze, numbers=(1,)),
    "Upsample": Operator(resizing.upsample, numbers=(1,)),
}
