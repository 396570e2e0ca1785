"""Refuse ONNX files whose weights lie in other files, which no hash of the bundle covers.

The runtime has no ``onnx`` package, so the file's protobuf structure is walked here, down to every tensor in
every subgraph, without decoding a weight. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_DEPTH = 100  # nested messages; protobuf itself reads no more

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_DATA_LOCATION, _EXTERNAL_DATA = 14, 13
_OP_TYPE = 4
_COMPILED = b"EPContext"  # an operator of ONNX Runtime: a compiled engine, which is code, or a path to one
# by message, the fields that hold messages which may lead to a tensor
_FIELDS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}


class NotOnnx(ValueError):
    """The bytes are not a protobuf message, so what they refer to can't be told."""


def has_external_data(data: bytes) -> bool:
    """Whether any tensor of the ONNX model ``data``, in a subgraph or function too, lies in another file.

    A node that stands for an engine compiled elsewhere counts as such.

    Raises:
        NotOnnx: the bytes can't be walked.
    """
    view = memoryview(data)
    pending = [("Model", 0, len(data), 0)]
    while pending:
        message, start, end, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise NotOnnx("it is nested too deeply")
        inner = _FIELDS[message]
        for number, wire, value, at in _fields(view, start, end):
            if message == "Node" and number == _OP_TYPE and bytes(view[at : at + value]) == _COMPILED:
                return True
            if message == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
                return True
            if number in inner:
                if wire != _LEN:
                    raise NotOnnx("a message is expected where a number is")
                pending.append((inner[number], at, at + value, depth + 1))
    return False


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message: number, wire type, its value or length, and where its content begins."""
    while at < end:
        key, at = _varint(view, at, end)
        number, wire = key >> 3, key & 7
        if number == 0 or key > 0xFFFF_FFFF:
            raise NotOnnx(f"a field has the number {number}")
        if wire == _VARINT:
            value, after = _varint(view, at, end)
        elif wire == _LEN:
            value, at = _varint(view, at, end)
            after = at + value
        elif wire in (_I64, _I32):
            value, after = 0, at + (8 if wire == _I64 else 4)
        else:
            raise NotOnnx(f"a field has the wire type {wire}")
        if after > end:
            raise NotOnnx("a field is cut short")
        yield number, wire, value, at
        at = after


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise NotOnnx("a number is cut short")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise NotOnnx("a number is too long")
