"""Schema of ``bundle.json``: the structs that it is decoded into, with their constraints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from sdk.choices import BUNDLE_PRECISIONS, GraphKind, Precision

SCHEMA = 1
MANIFEST = "bundle.json"
SIGNATURE = "bundle.json.sig"
MAX_SUBSET = 1 << 20  # positions of a random input
MAX_SIDE, MAX_PIXELS = 8192, 1 << 24  # of the engines' image


class File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file of the bundle: its path relative to the folder, and its sha256 in lower-case hex."""

    file: str
    sha256: str


class RandomInput(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An engine input that the host draws from the CSPRNG: a uniform subset, ``take`` of ``size`` positions.

    ``encoding`` says how the subset enters the engine: ``mask``, a 0/1 vector of length ``size``, or
    ``indices``, the ``take`` chosen positions in increasing order.
    """

    name: str
    kind: Literal["subset"]
    size: int
    take: int
    encoding: Literal["mask", "indices"]
    dtype: Literal["float32", "int64"]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.take <= self.size:
            raise ValueError(
                f"random input {self.name!r}: expected 1 <= take <= size = {self.size}, got {self.take}"
            )
        if self.size > MAX_SUBSET:
            raise ValueError(f"random input {self.name!r}: expected size <= {MAX_SUBSET:,}, got {self.size}")
        width = self.size if self.encoding == "mask" else self.take
        if self.shape != (1, width):
            raise ValueError(
                f"random input {self.name!r}: expected shape [1, {width}], got {list(self.shape)}"
            )


class Engine(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One purifier or classifier: its id and its ONNX file per precision.

    ``cpu`` holds the graphs that CPUs run instead, for precisions where one graph can't suit both: INT8 for
    TensorRT is signed and symmetric, INT8 for CPUs unsigned and asymmetric. ``graph`` chooses.
    """

    id: str
    onnx: dict[Precision, File]
    random_inputs: tuple[RandomInput, ...] = ()
    cpu: dict[Precision, File] = {}

    def graph(self, precision: Precision, kind: GraphKind) -> File:
        """The ONNX file for ``precision`` on a CPU or GPU; a ``KeyError`` if there is no such precision."""
        return self.cpu.get(precision, self.onnx[precision]) if kind == "cpu" else self.onnx[precision]

    def __post_init__(self) -> None:
        if "fp32" not in self.onnx:
            raise ValueError(f"engine {self.id!r}: expected an fp32 ONNX file, got {sorted(self.onnx)}")
        if alone := self.cpu.keys() - self.onnx.keys():
            raise ValueError(
                f"engine {self.id!r}: expected {sorted(alone)} under onnx too, got it for CPUs alone"
            )
        names = ["image", *(spec.name for spec in self.random_inputs)]
        if len(set(names)) != len(names):
            raise ValueError(f"engine {self.id!r}: expected distinct input names, got {names}")


class Image(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The engines' image size in pixels, and how a frame of any size becomes one."""

    height: int
    width: int
    resize: Literal["area"] = "area"
    fit: Literal["center-crop"] = "center-crop"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image: expected a height and width >= 1, got {self.height} x {self.width}")
        if max(self.height, self.width) > MAX_SIDE or self.height * self.width > MAX_PIXELS:
            raise ValueError(
                f"image: expected sides of at most {MAX_SIDE:,} and {MAX_PIXELS:,} pixels, "
                f"got {self.height} x {self.width}"
            )


class Twin(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The torch model with the bundle's weights: a safetensors file and the config's model section."""

    weights: File
    config: dict[str, Any]


class Calibration(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Calibration of the scores: logits are divided by ``temperature`` before the softmax."""

    temperature: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"calibration: expected a temperature > 0, got {self.temperature}")


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """``bundle.json`` as it is on disk.

    Attributes:
        robustness: the record that ``edge-train evaluate --gate`` holds.
        version: a number that grows with each release of the bundle; None where releases aren't counted.
        purpose: what the bundle is for, such as a product's name; a device can insist on its own.
        goldens: golden outputs of a lower precision's own engines, where those of FP32 don't hold for it, by
            precision; with ".cpu" behind it those of the graphs for CPUs.
        pictures: that the model card shows.
        plans: built engines and their sidecars inside the folder. An engine is code, so one that isn't
            listed here is not loaded from the folder. They are verified when they are read.
    """

    schema: int
    name: str
    family: Literal["ren", "maep"]
    labels: File
    image: Image
    purifiers: tuple[Engine, ...]
    classifiers: tuple[Engine, ...]
    golden: File
    twin: Twin | None = None
    card: File | None = None
    robustness: File | None = None
    measured: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = {}
    version: int | None = None
    purpose: str | None = None
    plans: tuple[File, ...] = ()
    calibration: Calibration | None = None
    goldens: dict[str, File] = {}
    pictures: tuple[File, ...] = ()

    @property
    def has_external_classifier(self) -> bool:
        """Whether the classifier is a user's own, whose ONNX graph is all that there is of it."""
        return self.twin is None or self.twin.config.get("classifier", {}).get("kind") == "onnx"

    def __post_init__(self) -> None:
        if self.version is not None and not 1 <= self.version < 1 << 63:
            raise ValueError(f"version: expected 1 to 2**63 - 1, got {self.version}")
        if self.purpose is not None and not self.purpose.strip():
            raise ValueError("purpose: expected a text, got an empty one")
        for role, engines in (("purifiers", self.purifiers), ("classifiers", self.classifiers)):
            if not engines:
                raise ValueError(f"{role}: expected at least one, got none")
            ids = [engine.id for engine in engines]
            if len(set(ids)) != len(ids):
                raise ValueError(f"{role}: expected distinct ids, got {ids}")
        for engine in self.classifiers:
            if engine.random_inputs:
                raise ValueError(
                    f"classifier {engine.id!r}: expected no random inputs, a classifier takes none"
                )

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All purifiers, then all classifiers."""
        return (*self.purifiers, *self.classifiers)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that every engine has, the most exact first."""
        return tuple(
            each for each in BUNDLE_PRECISIONS if all(each in engine.onnx for engine in self.engines)
        )

    @property
    def lower_precisions(self) -> tuple[Precision, ...]:
        """``precisions`` below FP32."""
        return tuple(each for each in self.precisions if each != "fp32")

    def golden_of(self, precision: Precision, kind: GraphKind) -> File:
        """The golden outputs that engines of a precision are held to."""
        has_own = any(precision in engine.cpu for engine in self.engines)
        return self.goldens.get(f"{precision}.cpu" if kind == "cpu" and has_own else precision, self.golden)

    def graphs(self) -> set[File]:
        """Every ONNX file, of all precisions and kinds."""
        return {file for one in self.engines for files in (one.onnx, one.cpu) for file in files.values()}

    def files(self) -> Iterator[File]:
        """Every file named, each once; built engines, which are derived and may be absent, are left out."""
        named = [self.labels, self.golden, self.card, self.robustness, *self.goldens.values(), *self.pictures]
        if self.twin is not None:
            named.append(self.twin.weights)
        for engine in self.engines:
            named += [*engine.onnx.values(), *engine.cpu.values()]
        yield from dict.fromkeys(file for file in named if file is not None)
