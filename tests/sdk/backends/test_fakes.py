"""The fakes are as the real things are: every method and every parameter, read from the real docstrings.

And the calls of the seam to the real ``cuda.bindings`` get as far as the driver that isn't there.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import pytest

from sdk.backends import cuda as seam
from sdk.errors import BackendError
from sdk.host.hardware import gpu_nodes
from tests.sdk.fakes import tensorrt as fake_trt
from tests.sdk.fakes.cuda_bindings import NO_RESULT, FakeCudaBindings
from tests.sdk.fakes.gpu import FakeGpu

CLASSES = ("ILogger", "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache")
ENUMS = {
    "DataType": fake_trt.DataType,
    "TensorIOMode": fake_trt.TensorIOMode,
    "ExecutionContextAllocationStrategy": fake_trt.ExecutionContextAllocationStrategy,
}
NOT_TENSORRTS = {"granted", "logger", "trt", "ready"}  # of the fakes themselves
CUDA_CALLS = [name for name in vars(FakeCudaBindings) if name.startswith("cu")]


@pytest.fixture(scope="module")
def real_trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'edge-purify[rtx]'")


@pytest.fixture(scope="module")
def real_cuda() -> Any:
    return pytest.importorskip("cuda.bindings.driver", reason="needs cuda-python: pip install cuda-bindings")


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("name", CLASSES)
def test_fake_tensorrt_has_the_real_methods(real_trt: Any, name: str) -> None:
    fake, real = getattr(fake_trt, name), getattr(real_trt, name)
    public = {key for key in dir(fake) if not key.startswith("_")} - NOT_TENSORRTS
    assert len(public) >= 1
    for key in sorted(public):
        member = inspect.getattr_static(fake, key)
        if inspect.isfunction(member):
            doc = getattr(real, key).__doc__
            overloads = [
                tuple(re.findall(r"(?:^|, )(\w+): ", found))
                for found in re.findall(rf"{key}\((self: .*)\) ->", doc)
            ]
            assert ("self", *parameters(member)) in overloads, (key, overloads)
        else:
            assert hasattr(real, key), key
            assert not callable(getattr(real, key)), f"{key} is a method there"


@pytest.mark.parametrize("name", ENUMS)
def test_fake_enums_have_the_real_members(real_trt: Any, name: str) -> None:
    assert {member.name for member in ENUMS[name]} <= set(getattr(real_trt, name).__members__)
    real = next(iter(getattr(real_trt, name).__members__.values()))
    assert isinstance(real.name, str)  # which the backend reads


def test_the_real_logger_wants_its_base_initialized(real_trt: Any) -> None:
    """As the fake one does; and Runtime takes a logger alone."""

    class Careless(real_trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="__init__"):
        Careless()
    assert parameters(fake_trt.FakeTensorRt.Runtime) == ["logger"]
    assert re.search(r"__init__\(self: \S+, logger: \S+\) -> None", real_trt.Runtime.__init__.__doc__)


@pytest.mark.parametrize("name", CUDA_CALLS)
def test_fake_cuda_has_the_real_functions(real_cuda: Any, name: str) -> None:
    doc = getattr(real_cuda, name).__doc__
    signature = re.match(rf"{name}\((.*?)\)", doc)
    assert signature is not None
    real = [re.split(r":", part)[0].split()[-1] for part in signature[1].split(",") if part.strip()]
    assert parameters(getattr(FakeCudaBindings, name)) == real
    returns = re.search(r"Returns\n *-------\n(.*?)(\n *See Also|\Z)", doc, re.DOTALL)
    assert returns is not None
    n_results = len(re.findall(r"^\S", textwrap.dedent(returns[1]), re.MULTILINE)) - 1  # beside the status
    assert n_results == (0 if name.startswith(NO_RESULT) else 1)


@pytest.mark.parametrize(
    "enum",
    [
        "CUresult.CUDA_SUCCESS",
        "CUstream_flags.CU_STREAM_NON_BLOCKING",
        "CUevent_flags.CU_EVENT_DEFAULT",
        "CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
        "CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
    ],
)
def test_fake_cuda_enums_have_the_real_values(real_cuda: Any, enum: str) -> None:
    name, member = enum.split(".")
    assert (
        getattr(getattr(FakeCudaBindings, name), member).value
        == getattr(getattr(real_cuda, name), member).value
    )


SEAM_CALLS: dict[str, tuple[Any, ...]] = {
    "create_stream": (),
    "synchronize": (7,),
    "destroy_stream": (7,),
    "create_event": (),
    "record": (8, 7),
    "elapsed_ms": (8, 9),
    "destroy_event": (8,),
    "allocate": (1024,),
    "free": (4096,),
    "allocate_host": ((1, 4), "float32"),
    "launch": (6, 7),
    "destroy_graph": (6,),
    "close": (),
}


@pytest.mark.skipif(bool(gpu_nodes()), reason="there is a GPU, and these calls would reach its driver")
@pytest.mark.parametrize("name", [*SEAM_CALLS, "free_host", "copy_to_device", "copy_to_host"])
def test_real_cuda_takes_the_seams_arguments(
    real_cuda: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong type or number of arguments is a TypeError before the missing driver is noticed."""
    driver = seam.CudaPython(FakeCudaBindings(FakeGpu()))
    array = driver._cuda.gpu.allocate_host(16)
    monkeypatch.setattr(driver, "_cuda", real_cuda)
    arguments = SEAM_CALLS.get(name) or {
        "free_host": (array,),
        "copy_to_device": (4096, array, 7),
        "copy_to_host": (array, 4096, 7),
    }.get(name, ())
    with pytest.raises(BackendError, match="is there an NVIDIA GPU"):
        getattr(driver, name)(*arguments)


@pytest.mark.skipif(bool(gpu_nodes()), reason="there is a GPU, which would be opened")
def test_the_real_bindings_without_a_driver_are_one_line(real_cuda: Any) -> None:
    with pytest.raises(BackendError, match=r"CUDA: cuInit: .*'edge-purify doctor' looks") as caught:
        seam.open_driver()
    assert "\n" not in str(caught.value)
