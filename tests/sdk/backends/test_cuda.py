"""Which GPU and which binding the engine backends take, and what is said where they don't fit."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sdk.backends import cuda as seam
from sdk.backends.cuda import BindingUnfit, CudaPython, PyCuda
from sdk.errors import BackendError
from tests.sdk.backends.test_tensorrt import Named
from tests.sdk.fakes.cuda_bindings import FakeCudaBindings
from tests.sdk.fakes.gpu import FakeGpu
from tests.sdk.fakes.pycuda_driver import FakePyCuda


class OldDriver(FakeCudaBindings):
    """Version 13 of the bindings over a driver for CUDA 12.6."""

    def cuEventElapsedTime(self, hStart: int, hEnd: int) -> tuple[Any, ...]:
        raise RuntimeError('Function "cuEventElapsedTime_v2" not found')


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What can be imported, by name; empty at first."""
    found: dict[str, Any] = {}
    for package in ("cuda.bindings", "pycuda"):
        monkeypatch.setitem(sys.modules, package, Named)

    def imported(name: str, reasons: list[str]) -> Any:
        if name not in found:
            reasons.append(f"No module named {name!r}")
        return found.get(name)

    monkeypatch.setattr(seam, "_imported", imported)
    return found


def test_a_driver_too_old_for_the_bindings_is_one_line_with_the_fix(modules: dict[str, Any]) -> None:
    gpu = FakeGpu()
    modules["cuda.bindings.driver"] = OldDriver(gpu)
    with pytest.raises(
        BindingUnfit, match=r"1\.2\.3 doesn't fit this driver, which serves CUDA 12\.6: "
    ) as caught:
        seam.open_driver()
    assert caught.value.hint == "pip install 'cuda-bindings>=12.8,<13', or update the driver"
    gpu.require_nothing_held()


def test_pycuda_stands_in_for_bindings_that_do_not_fit(modules: dict[str, Any]) -> None:
    gpu = FakeGpu()
    modules["cuda.bindings.driver"] = OldDriver(gpu)
    modules["pycuda.driver"] = FakePyCuda(gpu)
    driver = seam.open_driver()
    assert isinstance(driver, PyCuda)
    driver.close()
    gpu.require_nothing_held()


def test_a_binding_is_taken_by_its_name_alone(modules: dict[str, Any]) -> None:
    gpu = FakeGpu()
    modules["cuda.bindings.driver"] = FakeCudaBindings(gpu)
    with pytest.raises(BackendError, match=r"No module named 'pycuda\.driver'"):
        seam.open_driver(binding="pycuda")
    modules["pycuda.driver"] = FakePyCuda(gpu)
    for binding, kind in (("auto", CudaPython), ("cuda-python", CudaPython), ("pycuda", PyCuda)):
        driver = seam.open_driver(binding=binding)  # type: ignore[arg-type]
        assert isinstance(driver, kind)
        assert driver.gpu.multiprocessors == gpu.multiprocessors
        driver.close()
    gpu.require_nothing_held()


def test_the_gpu_is_chosen_by_its_number(modules: dict[str, Any]) -> None:
    gpu = FakeGpu(count=2)
    modules["cuda.bindings.driver"] = FakeCudaBindings(gpu)
    seam.open_driver(1).close()
    with pytest.raises(BackendError, match="cuDeviceGet failed: invalid device ordinal"):
        seam.open_driver(2)
    gpu.require_nothing_held()
