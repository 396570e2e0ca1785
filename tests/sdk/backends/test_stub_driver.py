"""The real CUDA bindings over a driver without a GPU: backends closed, forgotten and alive at exit.

The stub of ``tests/sdk/fakes/libcuda.c`` counts what was left and every call that a real driver would refuse.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sdk.bundle import Bundle
from tests.sdk.fakes.built import write_engines

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "tests" / "sdk" / "fakes" / "libcuda.c"
BINDINGS = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}
CLEAN = "stub driver: retained 0, live 0, misuses 0"


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``libcuda.so.1``, in which all that pycuda's module is linked to is there."""
    folder = tmp_path_factory.mktemp("driver")
    others = folder / "others.c"
    others.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in linked_by_pycuda()))
    line = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", SOURCE]
    try:
        subprocess.run([*line, others, "-lpthread", "-ldl"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs gcc, which makes the stub driver")
    return folder


def linked_by_pycuda() -> set[str]:
    """Functions of the driver that pycuda names and the stub lacks: without them it can't be imported."""
    package = find_spec("pycuda")
    if package is None or package.origin is None:
        return set()
    (module,) = Path(package.origin).parent.glob("_driver.*.so")
    said = subprocess.run(
        ["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True
    )
    known = set(re.findall(r"^int (cu\w+)\(", SOURCE.read_text(), re.MULTILINE))
    return set(re.findall(r"\b(cu[A-Z]\w+)", said.stdout)) - known


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    package = BINDINGS[name].partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{name} isn't installed")
    return name


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_engines(Bundle.open(tiny_bundle), gpu="Stub")
    return tiny_bundle


def run(stub: Path, binding: str, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` over the stub, where ``load`` and ``driver`` use ``binding`` alone."""
    code = f"""
import gc
from functools import partial
import numpy as np
from sdk.backends import cuda
from tests.sdk.fakes import stub_gpu
driver = partial(cuda.open_driver, binding={binding!r})
load = partial(stub_gpu.load, binding={binding!r})
image = np.linspace(0, 1, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
{code}
"""
    paths = {"LD_LIBRARY_PATH": str(stub), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=ROOT,
        env={**os.environ, "STUB_CAPTURES": "0", **paths, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


SEQUENCES = {
    "two backends, the first one closed": """
a, b = load(FOLDER), load(FOLDER)
first = a.classify(0, image)
a.close()
print(np.array_equal(first, b.classify(0, image)))
b.close()
""",
    "two backends, the first one forgotten": """
a, b = load(FOLDER), load(FOLDER)
first = a.classify(0, image)
thread = a._gpu_thread._thread
del a
gc.collect()
thread.join(30)
print(np.array_equal(first, b.classify(0, image)) and not thread.is_alive())
b.close()
""",
    "alive at exit": """
a = load(FOLDER)
print(a.classify(0, image).shape == (1, 4))
""",
    "twenty reloads": """
for _ in range(20):
    a = load(FOLDER)
    shape = a.classify(1, image).shape
    a.close()
print(shape == (1, 4))
""",
}


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_backend_leaves_nothing_on_the_driver(
    stub: Path, binding: str, bundle: Path, sequence: str
) -> None:
    """A context still pushed when its thread ends makes pycuda abort the process."""
    done = run(stub, binding, f"FOLDER = {str(bundle)!r}\n{SEQUENCES[sequence]}")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (0, "True\n", CLEAN), done.stderr


def test_the_stub_sees_what_is_left_and_misused(stub: Path, binding: str) -> None:
    """Or the test above could not fail; pycuda frees what is forgotten, and aborts over a pushed context."""
    if binding == "cuda-python":
        left = run(stub, binding, "d = driver(); d.create_stream(); d.allocate(64)")
        assert left.stderr.strip() == "stub driver: retained 1, live 2, misuses 0"
    else:
        left = run(stub, binding, "import threading\nthreading.Thread(target=driver).start()")
        assert left.returncode == -signal.SIGABRT
        assert "A context was still active" in left.stderr
    misused = run(stub, binding, "d = driver(); d.close(); d.allocate(64)")
    assert misused.returncode == 1
    assert "CUDA: " in misused.stderr
    assert re.search(r"misuses [1-9]\d*$", misused.stderr.strip())


def test_copies_events_and_graphs_go_through(stub: Path, binding: str) -> None:
    code = """
d = driver()
stream, address, host = d.create_stream(), d.allocate(64), d.allocate_host((16,), "float32")
start, end = d.create_event(), d.create_event()
host[:] = 3
d.record(start, stream)
d.copy_to_device(address, host, stream)
host[:] = 0
graph = d.capture(stream, lambda: d.copy_to_host(host, address, stream))
if graph is None:
    d.copy_to_host(host, address, stream)
else:
    assert not host.any()  # captured, and not done
    d.launch(graph, stream)
    d.destroy_graph(graph)
d.record(end, stream)
d.synchronize(stream)
print(graph is not None, host.tolist() == [3] * 16, d.elapsed_ms(start, end) >= 0, d.gpu.multiprocessors)
for event in (start, end):
    d.destroy_event(event)
d.free_host(host)
d.free(address)
d.destroy_stream(stream)
d.close()
"""
    done = run(stub, binding, code, STUB_CAPTURES="1")
    graphs = binding == "cuda-python"
    assert (done.stdout, done.stderr.strip()) == (f"{graphs} True True 16\n", CLEAN)


def test_bindings_for_cuda_13_over_an_older_driver_are_one_line(stub: Path) -> None:
    """They call a function that drivers for CUDA before 12.8 lack, and only when an event is timed."""
    bindings = pytest.importorskip("cuda.bindings")
    if int(bindings.__version__.split(".")[0]) < 13:
        pytest.skip(f"cuda-bindings {bindings.__version__} fit older drivers")
    code = "try: driver()\nexcept cuda.BindingUnfit as error: print(error)"
    done = run(stub, "cuda-python", code, STUB_VERSION="12060")
    assert done.stderr.strip() == CLEAN
    assert "doesn't fit this driver, which serves CUDA 12.6: " in done.stdout
    assert done.stdout.count("\n") == 1
    newer = run(stub, "cuda-python", "driver().close(); print(1)", STUB_VERSION="12080")
    assert (newer.stdout, newer.stderr.strip()) == ("1\n", CLEAN)
