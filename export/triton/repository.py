"""Write a Triton model repository: one model an engine, and a Python model that draws and chains them.

    write_repository(bundle, Path("models"), Options(precision="fp16", target="l4"))

The configurations are ``model_config.proto``'s, in text. Engines keep their static shape of one image; the
Python model takes a batch of images and draws for each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.bundle.staging import staged
from sdk.bundle import Bundle, Engine, Precision, write_file
from sdk.errors import UsageError

Device = Literal["cpu", "gpu"]
MAX_IMAGES = 64  # of one request
VERSION = "1"  # the folder of a model's only version
NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
MODEL = Path(__file__).with_name("model.py")


@dataclass(frozen=True)
class Options:
    """What the repository holds.

    Attributes:
        precision: of the engines.
        device: what ONNX Runtime runs the ONNX files on.
        plans: TensorRT plans by engine id, which run instead of the ONNX files; on a GPU.
        votes: draws for each image.
        name: of the model that clients call, and the head of the others' names; None takes the bundle's.
        force: replace models of these names.
    """

    precision: Precision = "fp32"
    device: Device = "cpu"
    plans: Mapping[str, bytes] | None = None
    votes: int = 1
    name: str | None = None
    force: bool = False


Tensor = tuple[str, str, tuple[int, ...]]  #: name, Triton's type, dimensions


def write_repository(bundle: Bundle, repository: Path, options: Options) -> tuple[str, ...]:
    """Write the models; the one that clients call comes last, so that it never lacks another.

    Args:
        repository: its folder, made if it is missing; models of other names stay.

    Returns:
        The models' names, the one that clients call last.

    Raises:
        UsageError: a model's name can't be used or is taken, or the bundle has no such precision.
        BundleError: a file of the bundle is damaged.
        OSError: a file can't be written.
    """
    name = model_name(bundle, options)
    if options.precision not in bundle.manifest.precisions:
        has = ", ".join(bundle.manifest.precisions)
        raise UsageError(f"precision {options.precision}: bundle {bundle.folder} has {has}")
    if options.plans is not None:
        for engine in bundle.manifest.engines:
            if engine.id not in options.plans:
                raise UsageError(f"plans: there is no plan of engine {engine.id}")
    models = dict(_models(bundle, name, options))
    taken = [model for model in models if (repository / model).exists()]
    if taken and not options.force:
        raise UsageError(
            f"{repository / taken[0]}: is there already", hint="--force replaces it; or give --name"
        )
    repository.mkdir(parents=True, exist_ok=True)
    for model, write in models.items():
        with staged((repository / model).absolute(), options.force) as folder:
            (folder / VERSION).mkdir()
            write(folder)
    return tuple(models)


def model_name(bundle: Bundle, options: Options) -> str:
    """The name of the model that clients call.

    Raises:
        UsageError: it isn't fit for a folder.
    """
    name = options.name or bundle.manifest.name
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"name: expected up to 100 letters, digits, '_', '-' and '.' for a model's folder, got {name!r}",
            hint="give one by --name",
        )
    return name


def _models(bundle: Bundle, name: str, options: Options) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Each model's name with what fills its folder."""
    manifest = bundle.manifest
    image: Tensor = ("image", "TYPE_FP32", (1, *_shape(bundle)))
    purifiers = [f"{name}-purifier-{index:02}" for index in range(len(manifest.purifiers))]
    classifiers = [f"{name}-classifier-{index:02}" for index in range(len(manifest.classifiers))]
    for model, engine in zip(purifiers, manifest.purifiers, strict=True):
        draws: list[Tensor] = [(spec.name, TYPES[spec.dtype], spec.shape) for spec in engine.random_inputs]
        config = engine_config(model, [image, *draws], ("purified", *image[1:]), options)
        yield model, _engine_writer(bundle, engine, config, options)
    logits: Tensor = ("logits", "TYPE_FP32", (1, len(bundle.labels)))
    for model, engine in zip(classifiers, manifest.classifiers, strict=True):
        config = engine_config(model, [image], logits, options)
        yield model, _engine_writer(bundle, engine, config, options)
    yield name, _python_writer(bundle, name, purifiers, classifiers, options)


def _engine_writer(bundle: Bundle, engine: Engine, config: str, options: Options) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        if options.plans is None:
            data = bundle.read(engine.graph(options.precision, options.device))
            write_file(folder, f"{VERSION}/model.onnx", data)
        else:
            write_file(folder, f"{VERSION}/model.plan", options.plans[engine.id])
        write_file(folder, "config.pbtxt", config.encode())

    return write


def _python_writer(
    bundle: Bundle, name: str, purifiers: list[str], classifiers: list[str], options: Options
) -> Callable[[Path], None]:
    manifest = bundle.manifest
    settings = {
        "purifiers": [
            {
                "model": model,
                "random_inputs": [
                    {key: getattr(spec, key) for key in ("name", "size", "take", "encoding", "dtype")}
                    for spec in engine.random_inputs
                ],
            }
            for model, engine in zip(purifiers, manifest.purifiers, strict=True)
        ],
        "classifiers": classifiers,
        "shape": _shape(bundle),
        "n_classes": len(bundle.labels),
        "temperature": 1.0 if manifest.calibration is None else manifest.calibration.temperature,
        "bundle": {"name": manifest.name, "sha256": bundle.digest, "precision": options.precision},
    }

    def write(folder: Path) -> None:
        write_file(folder, f"{VERSION}/model.py", MODEL.read_bytes())
        write_file(folder, f"{VERSION}/purify.json", json.dumps(settings, indent=1).encode())
        write_file(folder, "labels.txt", "".join(f"{label}\n" for label in bundle.labels).encode())
        write_file(folder, "config.pbtxt", python_config(bundle, name, options).encode())

    return write


def engine_config(model: str, inputs: list[Tensor], output: Tensor, options: Options) -> str:
    """The configuration of one engine's model."""
    on_gpu = options.plans is not None or options.device == "gpu"
    lines = [
        f'name: "{model}"',
        'platform: "tensorrt_plan"' if options.plans is not None else 'platform: "onnxruntime_onnx"',
        "max_batch_size: 0",
        *(_tensor("input", each) for each in inputs),
        _tensor("output", output),
        f"instance_group {{ count: 1 kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }}",
    ]
    if not on_gpu:  # engines run one after the other, and small ones gain nothing by threads
        lines.append('parameters { key: "intra_op_thread_count" value { string_value: "1" } }')
    return "\n".join(lines) + "\n"


def python_config(bundle: Bundle, name: str, options: Options) -> str:
    """The configuration of the model that clients call.

    Input ``image``, (N, 3, H, W), RGB in [0, 1]; outputs ``probabilities``, (N, n_classes), and ``purified``.
    The images are Triton's batch, so that it names the best classes of each.
    """
    images = _shape(bundle)
    probabilities: Tensor = ("probabilities", "TYPE_FP32", (len(bundle.labels),))
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        f"max_batch_size: {MAX_IMAGES}",
        _tensor("input", ("image", "TYPE_FP32", images)),
        _tensor("output", probabilities, ' label_filename: "labels.txt"'),
        _tensor("output", ("purified", "TYPE_FP32", images)),
        "instance_group { count: 1 kind: KIND_CPU }",
        f'parameters {{ key: "votes" value {{ string_value: "{options.votes}" }} }}',
    ]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, tensor: Tensor, more: str = "") -> str:
    name, dtype, dims = tensor
    return f"{kind} {{ name: {json.dumps(name)} data_type: {dtype} dims: {list(dims)}{more} }}"


def _shape(bundle: Bundle) -> tuple[int, int, int]:
    return 3, bundle.manifest.image.height, bundle.manifest.image.width
