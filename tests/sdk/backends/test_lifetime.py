"""A backend closed, forgotten or alive at exit releases its GPU on its own thread; logs outlive them all."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from sdk.backends.gpu_thread import GpuThread
from sdk.backends.tensorrt import TensorRtBackend
from sdk.backends.tensorrt_engine import Library
from sdk.backends.tensorrt_log import errors_into, log_of
from sdk.bundle import Bundle
from tests.sdk.backends.test_tensorrt import fake_driver
from tests.sdk.fakes.built import write_engines
from tests.sdk.fakes.gpu import FakeGpu
from tests.sdk.fakes.tensorrt import FakeTensorRt

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    bundle = Bundle.open(tiny_bundle)
    write_engines(bundle)
    return bundle


def load(bundle: Bundle, gpu: FakeGpu) -> TensorRtBackend:
    return TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))


def ended(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def in_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own, which may crash."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# --- the GPU thread


def test_a_forgotten_backend_is_released_on_its_own_thread(bundle: Bundle) -> None:
    gpu = FakeGpu()
    backend = load(bundle, gpu)
    thread = backend._gpu_thread._thread
    forgotten = weakref.ref(backend)
    del backend
    gc.collect()
    assert forgotten() is None
    assert ended(thread)
    gpu.require_nothing_held()


def test_a_backend_that_is_forgotten_within_a_cycle_is_released_too(bundle: Bundle) -> None:
    gpu = FakeGpu()
    backend = load(bundle, gpu)
    thread = backend._gpu_thread._thread
    backend.itself = backend  # type: ignore[attr-defined]
    del backend
    gc.collect()
    assert ended(thread)
    gpu.require_nothing_held()


def test_twenty_reloads_leave_neither_threads_nor_memory(bundle: Bundle) -> None:
    gpu = FakeGpu()
    before = threading.active_count()
    for index in range(20):
        backend = load(bundle, gpu)
        if index % 2:
            backend.close()
            backend.close()
        thread = backend._gpu_thread._thread
        del backend
        gc.collect()
        assert ended(thread)
    gpu.require_nothing_held()
    assert threading.active_count() == before


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(7)", "raise RuntimeError"])
def test_a_backend_that_is_alive_at_exit_is_released_before_the_interpreter_ends(
    bundle: Bundle, ending: str
) -> None:
    code = f"""
import atexit
from sdk.bundle import Bundle
from tests.sdk.backends.test_lifetime import load
from tests.sdk.fakes.gpu import FakeGpu
gpu = FakeGpu()
def check():
    gpu.require_nothing_held()
    print("released")
atexit.register(check)  # handlers run in reverse order, but that of the GPU threads was registered on import
import sdk.backends.gpu_thread as threads
atexit.unregister(threads._close_all); atexit.register(threads._close_all)
backend = load(Bundle.open({str(bundle.folder)!r}), gpu)
{ending}
"""
    done = in_process(code)
    assert done.stdout == "released\n", done.stderr
    assert done.returncode == {"pass": 0, "raise SystemExit(7)": 7}.get(ending, 1)


def test_work_that_fails_on_the_thread_fails_for_its_caller_and_the_thread_goes_on() -> None:
    released: list[int] = []
    thread = GpuThread(lambda: released.append(threading.get_ident()))
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0)
    ident = thread.call(threading.get_ident)
    assert ident != threading.get_ident()
    thread.close()
    thread.close()
    assert released == [ident]


def test_closing_tells_what_the_release_raised() -> None:
    def release() -> None:
        raise ValueError("stuck")

    with pytest.raises(ValueError, match="stuck"):
        GpuThread(release).close()


# --- TensorRT's log


def test_lines_reach_the_thread_that_caused_them() -> None:
    log = log_of(FakeTensorRt(FakeGpu()))
    mine: list[str] = []
    theirs: list[str] = []
    ready, done = threading.Event(), threading.Event()

    def other() -> None:
        with errors_into(log, theirs):
            log.log(log.ERROR, "theirs")
            ready.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    with errors_into(log, mine):
        thread.start()
        assert ready.wait(10)
        log.log(log.ERROR, "mine")
        outside = threading.Thread(target=log.log, args=(log.ERROR, "of a thread of TensorRT's own"))
        outside.start()
        outside.join()
        done.set()
        thread.join()
    log.log(log.ERROR, "nobody's")
    assert mine == ["mine", "of a thread of TensorRT's own"]
    assert theirs == ["theirs", "of a thread of TensorRT's own"]


def test_the_first_librarys_end_leaves_the_log_to_the_others() -> None:
    trt = FakeTensorRt(FakeGpu())
    first, second = Library(trt, "tensorrt"), Library(trt, "tensorrt")
    assert log_of(trt) is log_of(trt)
    log = weakref.ref(log_of(trt))
    del first, second
    gc.collect()
    assert log() is not None


REAL = """
import gc
import tensorrt_rtx as trt
from sdk.backends.tensorrt_engine import Library

class Other:
    pass

def opened():
    library = Library(trt, "tensorrt-rtx")
    library.open()
    return library

def ask(library):
    assert library.runtime.deserialize_cuda_engine(b"junk" * 64) is None
    return library.why()

def use_the_global_log():
    gc.collect()
    others = [Other() for _ in range(100_000)]  # take the place of what was freed
    for _ in range(5):
        trt.get_plugin_registry().load_library("/nowhere.so")
"""
SEQUENCES = {
    "first closed": "a, b = opened(), opened(); a.close(); del a; use_the_global_log(); said = ask(b)",
    "first dropped": "a, b = opened(), opened(); del a; use_the_global_log(); said = ask(b)",
    "all closed": "a = opened(); said = ask(a); a.close(); del a; use_the_global_log()",
    "20 reloads": "for _ in range(20):\n"
    "    a = opened(); said = ask(a); a.close(); del a; use_the_global_log()",
    "after a build": "from export.tensorrt.build import Options, build_plan\n"
    "try: build_plan(trt, b'junk', Options(16))\n"
    "except Exception as error: said = str(error)\n"
    "use_the_global_log()",
    "alive at exit": "a = opened(); said = ask(a)",
}


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_the_real_tensorrt_survives_its_libraries(sequence: str) -> None:
    """A logger that is freed while TensorRT keeps it ends the process by a segmentation fault."""
    pytest.importorskip("tensorrt_rtx")
    done = in_process(REAL + SEQUENCES[sequence] + "\nprint(len(said) > 0)")
    if "can't start" in done.stderr:
        pytest.skip("this TensorRT-RTX makes no runtime without a driver")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
