"""The TensorRT backend on strict fakes: the device-side chain, one thread, and nothing left behind."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from sdk import Purifier
from sdk.backends import open_backend
from sdk.backends.cuda import CudaPython, Driver, PyCuda
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.backends.tensorrt import TensorRtBackend
from sdk.backends.tensorrt_log import log_of
from sdk.bundle import Bundle, File, RandomInput, sha256_of, write_manifest
from sdk.draw import Draw, Drawer
from sdk.errors import BackendError, UsageError
from sdk.host.hardware import gpu_nodes
from tests.sdk.fakes.built import plan_of, write_engines
from tests.sdk.fakes.cuda_bindings import FakeCudaBindings
from tests.sdk.fakes.gpu import FakeGpu, Misuse
from tests.sdk.fakes.pycuda_driver import FakePyCuda
from tests.sdk.fakes.tensorrt import FakeTensorRt

IMAGE = np.linspace(0, 1, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
MASK = {"atom_mask": (np.arange(12) % 4 > 0).astype(np.float32)[None]}
DRAW = Draw(1, "purifier-01", 1, "classifier-01", MASK, seeded=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture(params=["cuda-python", "pycuda"])
def open_driver(
    request: pytest.FixtureRequest, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Driver]:
    """Each implementation of the driver seam, over its own fake."""
    for package in ("cuda.bindings", "pycuda"):
        monkeypatch.setitem(sys.modules, package, Named)
    if request.param == "cuda-python":
        return lambda: CudaPython(FakeCudaBindings(gpu))
    return lambda: PyCuda(FakePyCuda(gpu))


class Named:
    """What the seam asks of the packages ``cuda.bindings`` and ``pycuda`` themselves."""

    __version__ = VERSION_TEXT = "1.2.3"


@pytest.fixture
def backend(bundle: Bundle, gpu: FakeGpu, open_driver: Callable[[], Driver]) -> Iterator[TensorRtBackend]:
    write_engines(bundle)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
    gpu.calls.clear()
    yield opened
    opened.close()
    gpu.require_nothing_held()


# --- what it computes


def test_it_answers_as_onnx_runtime_does(bundle: Bundle, backend: TensorRtBackend) -> None:
    reference = OnnxRuntimeBackend(bundle)
    drawer = Drawer(bundle.manifest, seed=1)
    for draw in drawer.draw(votes=40):
        ours = backend.run(draw, IMAGE, want_purified=True)
        theirs = reference.run(draw, IMAGE, want_purified=True)
        assert np.array_equal(ours.logits, theirs.logits)
        assert ours.purified is not None
        assert np.array_equal(ours.purified, theirs.purified)
    for i in range(3):
        assert np.array_equal(backend.purify(i, IMAGE, MASK), reference.purify(i, IMAGE, MASK))
    for j in range(2):
        assert np.array_equal(backend.classify(j, IMAGE), reference.classify(j, IMAGE))


def test_indices_of_several_sizes_each_have_their_buffer(bundle_copy: Path, gpu: FakeGpu) -> None:
    """As a masked autoencoder's purifiers take them, int64, beside one that takes a mask."""
    bundle = with_index_purifiers(bundle_copy, takes=(5, 7))
    write_engines(bundle)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    reference = OnnxRuntimeBackend(bundle)
    for draw in Drawer(bundle.manifest, seed=3).draw(votes=30):
        ours = opened.run(draw, IMAGE, want_purified=True)
        theirs = reference.run(draw, IMAGE, want_purified=True)
        assert np.array_equal(np.array(ours.purified), np.array(theirs.purified))
    assert {5 * 8, 7 * 8, 12 * 4} <= {memory.nbytes for memory in gpu.memory.values()}
    opened.close()
    gpu.require_nothing_held()


def test_results_outlive_the_backend(backend: TensorRtBackend) -> None:
    first = backend.run(DRAW, IMAGE, want_purified=True)
    logits, purified = first.logits.copy(), np.array(first.purified)
    backend.run(DRAW, 1 - IMAGE, want_purified=True)
    backend.close()
    assert np.array_equal(first.logits, logits)
    assert np.array_equal(np.array(first.purified), purified)


def test_a_purifier_runs_on_it(bundle: Bundle, backend: TensorRtBackend, red_frame: np.ndarray) -> None:
    with Purifier(bundle, backend, votes=3) as purifier:
        result = purifier(red_frame)
        assert result.label == "red"
        assert result.purified is not None
        assert result.timings.purify_ms == pytest.approx(3 * 0.5)  # the fake's clock: 0.5 ms between events
        assert result.timings.classify_ms == pytest.approx(3 * 0.5)
        assert purifier.undefended(red_frame).label == "red"


def test_it_says_what_it_is(backend: TensorRtBackend) -> None:
    assert (backend.name, backend.version, backend.precision) == ("tensorrt", "10.3.0", "fp32")


# --- what it does on the device


def kinds(calls: list[str]) -> list[str]:
    """The calls of either driver in one vocabulary."""
    names = {
        "up": r"cuMemcpyHtoDAsync|memcpy_htod_async",
        "down": r"cuMemcpyDtoHAsync|memcpy_dtoh_async",
        "run": r"execute_async_v3|cuGraphLaunch",
        "wait": r"cuStreamSynchronize|Stream\.synchronize",
        "": r"cuEvent.*|Event\..*",
    }
    found = [next((kind for kind, name in names.items() if re.fullmatch(name, call)), call) for call in calls]
    return [kind for kind in found if kind]


def test_the_purified_image_stays_on_the_device(gpu: FakeGpu, backend: TensorRtBackend) -> None:
    inference = backend.run(DRAW, IMAGE, want_purified=False)
    assert inference.purified is None
    assert kinds(gpu.calls) == ["up", "up", "run", "run", "down", "wait"]  # image, mask; logits
    gpu.calls.clear()
    backend.run(DRAW, IMAGE, want_purified=True)
    assert kinds(gpu.calls) == ["up", "up", "run", "run", "down", "down", "wait"]


@pytest.mark.parametrize("votes", [1, 5])
def test_all_votes_share_one_upload_of_the_image_and_one_wait(
    gpu: FakeGpu, bundle: Bundle, backend: TensorRtBackend, votes: int
) -> None:
    """Vote by vote it took ``votes`` uploads of the image and as many waits: 35 calls for 5 votes."""
    draws = Drawer(bundle.manifest, seed=4).draw(votes)
    found = backend.run_votes(draws, IMAGE, want_purified=True)
    calls = kinds(gpu.calls)[-(6 + 4 * votes) :] if votes == 1 else kinds(gpu.calls)
    calls = [call for call in calls if call in ("up", "run", "down", "wait")]
    assert calls == [
        "up",
        "up",
        "run",
        "run",
        "down",
        "down",
        *["up", "run", "run", "down"] * (votes - 1),
        "wait",
    ]
    reference = OnnxRuntimeBackend(bundle)
    for vote, (ours, draw) in enumerate(zip(found, draws, strict=True)):
        theirs = reference.run(draw, IMAGE, want_purified=True)
        assert np.array_equal(ours.logits, theirs.logits)
        assert (ours.purified is None) == (vote > 0)
    gpu.calls.clear()
    backend.run_votes(draws, 1 - IMAGE, want_purified=False)
    assert kinds(gpu.calls).count("wait") == 1
    assert kinds(gpu.calls).count("up") == 1 + votes
    assert set(kinds(gpu.calls)) == {"up", "run", "down", "wait"}, (
        "nothing is allocated for as many votes again"
    )


def test_a_frame_allocates_and_binds_nothing(gpu: FakeGpu, bundle: Bundle, backend: TensorRtBackend) -> None:
    def held() -> list[Any]:
        return [set(gpu.memory), set(gpu.host), set(gpu.streams), set(gpu.events), list(gpu.objects)]

    before = held()
    for draw in Drawer(bundle.manifest, seed=2).draw(votes=20):
        backend.run(draw, IMAGE, want_purified=False)
    assert held() == before
    assert not {"set_tensor_address", "create_execution_context"} & set(gpu.calls)


def test_the_bank_shares_its_memory(gpu: FakeGpu, backend: TensorRtBackend) -> None:
    sizes = sorted(memory.nbytes for memory in gpu.memory.values())
    image, mask, logits = 3 * 16 * 16 * 4, 12 * 4, 4 * 4
    *buffers, scratch = sizes
    assert buffers == sorted([image, image, mask, logits])  # for 3 purifiers and 2 classifiers
    assert scratch > image  # as large as the largest plan, by the fake's rule
    assert sorted(memory.nbytes for memory in gpu.host.values()) == buffers
    assert len(gpu.streams) == 1
    assert sorted(gpu.objects) == ["ICudaEngine"] * 5 + ["IExecutionContext"] * 5 + ["Runtime"]


def test_engines_without_scratch_memory_run_too(bundle: Bundle, gpu: FakeGpu) -> None:
    write_engines(bundle)
    trt = FakeTensorRt(gpu)
    trt.needs_scratch = False
    opened = TensorRtBackend(bundle, module=trt, open_driver=fake_driver(gpu))
    assert np.array_equal(opened.classify(0, IMAGE), OnnxRuntimeBackend(bundle).classify(0, IMAGE))
    opened.close()


def test_calls_from_any_thread_are_handed_to_the_gpus(gpu: FakeGpu, backend: TensorRtBackend) -> None:
    expected = backend.classify(0, IMAGE)
    answers: list[np.ndarray] = []

    def ask() -> None:
        answers.extend(backend.classify(0, IMAGE) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 60
    assert all(np.array_equal(answer, expected) for answer in answers)
    assert [*gpu.current] == [next(t.ident for t in threading.enumerate() if t.name.startswith("gpu"))]


def test_gpu_work_on_another_thread_is_misuse(backend: TensorRtBackend) -> None:
    with pytest.raises(Misuse, match="no context is current on this thread"):
        backend._held.loaded().classify(0, IMAGE)  # past the hand-over: the fakes do notice


def test_engines_built_with_a_profile_get_their_shape(
    bundle: Bundle, gpu: FakeGpu, open_driver: Callable[[], Driver]
) -> None:
    plans = {e.id: any_batch(bundle.path(e.onnx["fp32"])) for e in bundle.manifest.classifiers}
    write_engines(bundle, plans=plans)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
    assert gpu.calls.count("set_input_shape") == 2
    expected = OnnxRuntimeBackend(bundle).classify(0, IMAGE)
    assert np.array_equal(opened.classify(0, IMAGE), expected)
    opened.close()


# --- closing


def test_closed_means_closed(gpu: FakeGpu, backend: TensorRtBackend) -> None:
    backend.close()
    gpu.require_nothing_held()
    backend.close()
    with pytest.raises(BackendError, match="backend tensorrt: it is closed; load it again"):
        backend.classify(0, IMAGE)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpu")]


def test_contexts_go_before_engines_and_engines_before_memory(gpu: FakeGpu, backend: TensorRtBackend) -> None:
    backend.close()
    names = {
        "contexts": "~IExecutionContext",
        "engines": "~ICudaEngine",
        "memory": r"cuMemFree|DeviceAllocation\.free",
        "runtime": "~Runtime",
        "gpu": r"cuDevicePrimaryCtxRelease|Context\.detach",
    }
    last = {
        what: max(index for index, call in enumerate(gpu.calls) if re.fullmatch(name, call))
        for what, name in names.items()
    }
    assert [*sorted(last, key=last.__getitem__)] == ["contexts", "engines", "memory", "runtime", "gpu"]


def test_a_forked_process_is_told(backend: TensorRtBackend) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # or a child that waits for ever would make the test do so too
        try:
            backend.classify(0, IMAGE)
            said = "nothing"
        except BackendError as error:
            said = str(error)
        backend.close()  # the parent's business: here it must do nothing, and not hang
        os.write(writing, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 1000).decode() == (
        "backend tensorrt: loaded before a fork, over which no GPU context lives; "
        "load the Purifier in the process that uses it"
    )
    os.close(reading)
    os.close(writing)
    backend.classify(0, IMAGE)


# --- failures


def before_graphs(calls: list[str]) -> list[str]:
    """The calls of a load up to its first graph: without graphs a backend works too."""
    return calls[: calls.index("cuStreamBeginCapture")] if "cuStreamBeginCapture" in calls else [*calls]


@pytest.mark.parametrize(
    "name", ["cuStreamBeginCapture", "execute_async_v3", "cuStreamEndCapture", "cuGraphInstantiate"]
)
def test_an_engine_that_cannot_be_captured_is_enqueued(
    bundle: Bundle, gpu: FakeGpu, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_engines(bundle)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    graphs = len(gpu.graphs)
    first = gpu.calls.index("cuStreamBeginCapture")
    at = first + gpu.calls[first:].index(name)
    opened.close()
    gpu.calls.clear()
    gpu.fail_at = at
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    gpu.fail_at = None
    assert (graphs, len(gpu.graphs)) == (5, 4)
    reference = OnnxRuntimeBackend(bundle)
    for i in range(3):
        assert np.array_equal(opened.purify(i, IMAGE, MASK), reference.purify(i, IMAGE, MASK))
    opened.close()
    gpu.require_nothing_held()


def test_every_failure_while_loading_releases_everything(
    bundle: Bundle, gpu: FakeGpu, open_driver: Callable[[], Driver]
) -> None:
    write_engines(bundle)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
    n_calls = len(before_graphs(gpu.calls))
    opened.close()
    for fail_at in range(n_calls):
        gpu.calls.clear()
        gpu.fail_at = fail_at
        with pytest.raises(BackendError, match="the test let") as caught:
            TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
        assert "\n" not in str(caught.value)
        gpu.require_nothing_held()  # while the exception, with its frames, is still held
    assert n_calls > 70


def test_every_failure_in_a_frame_names_the_engines_and_the_next_frame_is_sound(
    gpu: FakeGpu, backend: TensorRtBackend
) -> None:
    expected = backend.run(DRAW, IMAGE, want_purified=False).logits
    n_calls = len(gpu.calls)
    for fail_at in range(n_calls):
        gpu.calls.clear()
        gpu.fail_at = fail_at
        with pytest.raises(
            BackendError, match=r"engine purifier-01 and classifier-01: failed while running: "
        ):
            backend.run(DRAW, 1 - IMAGE, want_purified=False)
        gpu.fail_at = None
        assert np.array_equal(backend.run(DRAW, IMAGE, want_purified=False).logits, expected)
    assert n_calls == 11


def test_of_a_lasting_fault_while_loading_the_first_failure_is_told(
    bundle: Bundle, gpu: FakeGpu, open_driver: Callable[[], Driver]
) -> None:
    write_engines(bundle)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
    names = before_graphs(gpu.calls)
    opened.close()
    for fail_at, name in enumerate(names):
        vars(gpu).update(vars(FakeGpu(fail_at=fail_at, is_sticky=True)))
        with pytest.raises(BackendError) as caught:
            TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
        assert f"the test let {name} fail" in str(caught.value)
        assert not gpu.misuses
    assert len(names) > 70


def test_of_a_lasting_fault_in_a_frame_the_engines_failure_is_told(
    bundle: Bundle,
    gpu: FakeGpu,
    open_driver: Callable[[], Driver],
    red_frame: np.ndarray,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_engines(bundle)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
    gpu.is_sticky = True
    gpu.fail_at = len(gpu.calls) + 3  # after the event and the two copies up
    with (
        caplog.at_level(logging.DEBUG, "sdk"),
        pytest.raises(
            BackendError,
            match=r"^engine .*: failed while running: .*let (execute_async_v3|cuGraphLaunch) fail$",
        ),
        Purifier(bundle, opened) as purifier,
    ):
        purifier(red_frame)
    assert caplog.messages[-1].startswith("closing failed as well: CUDA: ")


def test_without_another_error_that_of_closing_is_told(
    bundle: Bundle, gpu: FakeGpu, open_driver: Callable[[], Driver]
) -> None:
    write_engines(bundle)
    opened = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=open_driver)
    with pytest.raises(BackendError, match="the test let"), Purifier(bundle, opened):
        gpu.fail_at, gpu.is_sticky = len(gpu.calls), True


def test_the_primary_context_is_released_even_where_it_cannot_be_unset(
    gpu: FakeGpu, open_driver: Callable[[], Driver]
) -> None:
    driver = open_driver()
    gpu.fail_at = len(gpu.calls)
    with pytest.raises(BackendError, match=r"the test let (cuCtxSetCurrent|Context\.pop) fail"):
        driver.close()
    assert gpu.retained == 0


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_it_fails_closed(
    bundle: Bundle, gpu: FakeGpu, backend: TensorRtBackend, red_frame: np.ndarray, on_error: Any
) -> None:
    with Purifier(bundle, backend, on_error=on_error) as purifier:
        gpu.fail_at = len(gpu.calls) + 4
        if on_error == "raise":
            with pytest.raises(BackendError, match="the test let"):
                purifier(red_frame)
        else:
            result = purifier(red_frame)
            assert result.label is result.probabilities is result.purified is None
            assert "the test let" in str(result.error)
        gpu.fail_at = None
        assert purifier(red_frame).label == "red"


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        ("deserialize_cuda_engine", "can't load it"),
        ("create_execution_context", "can't make a context for it"),
        ("set_tensor_address", "refused the address of image"),
    ],
)
def test_none_and_false_become_errors_that_quote_the_log(
    bundle: Bundle, gpu: FakeGpu, refuse: str, message: str
) -> None:
    write_engines(bundle)
    trt = FakeTensorRt(gpu)
    trt.refuse = refuse
    with pytest.raises(BackendError) as caught:
        TensorRtBackend(bundle, module=trt, open_driver=fake_driver(gpu))
    assert re.fullmatch(
        rf"engine purifier-00 \(.*\.plan\): TensorRT 10\.3\.0 {message}: "
        rf"Error Code 4: {refuse} was refused; build it again: "
        rf"edge-export engines .*tiny --target local --precision fp32 --force",
        str(caught.value),
    )
    gpu.require_nothing_held()


CANNOT_START = (
    "TensorRT 10.3.0 can't start: CUDA initialization failure with error: 35; is the driver new enough? "
    "'edge-purify doctor' looks"
)


def test_tensorrt_that_cannot_start_says_why_in_one_line(
    bundle: Bundle, gpu: FakeGpu, open_driver: Callable[[], Driver]
) -> None:
    write_engines(bundle)
    trt = FakeTensorRt(gpu)
    trt.refuse = "Runtime"
    with pytest.raises(BackendError) as caught:
        TensorRtBackend(bundle, module=trt, open_driver=open_driver)
    assert str(caught.value) == CANNOT_START
    gpu.require_nothing_held()


def test_a_plan_that_is_none_is_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    write_engines(bundle, plans={"classifier-01": b"not a plan"})
    with pytest.raises(BackendError, match=r"engine classifier-01 .*can't load it: .*magicTag"):
        TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    gpu.require_nothing_held()


def test_a_changed_plan_is_never_deserialized(bundle: Bundle, gpu: FakeGpu) -> None:
    plan = plan_of(bundle, write_engines(bundle), "purifier-00")
    plan.write_bytes(plan.read_bytes() + b"!")
    with pytest.raises(BackendError, match=r"engine purifier-00 .*damaged or changed"):
        TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    assert "deserialize_cuda_engine" not in gpu.calls
    gpu.require_nothing_held()


def test_an_engine_of_other_tensors_is_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    purifier = bundle.path(bundle.manifest.purifiers[0].onnx["fp32"]).read_bytes()
    write_engines(bundle, plans={"classifier-00": purifier})
    with pytest.raises(
        BackendError,
        match=r"engine classifier-00 .*expected inputs image, got atom_mask, image; build it again",
    ):
        TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    gpu.require_nothing_held()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"elem_type": TensorProto.INT64}, r"image float32 \[1, 3, 16, 16\], got int64 \[1, 3, 16, 16\]"),
        ({"side": 8}, r"image float32 \[1, 3, 16, 16\], got float32 \[1, 3, 8, 8\]"),
    ],
)
def test_an_engine_of_another_type_or_shape_is_refused(
    bundle: Bundle, gpu: FakeGpu, change: dict[str, int], got: str
) -> None:
    write_engines(bundle, plans={"classifier-01": summing_classifier(**change)})
    with pytest.raises(BackendError, match=rf"engine classifier-01 .*expected {got}; build it again"):
        TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    gpu.require_nothing_held()


def test_wrong_arrays_name_the_engine_and_both_signatures(backend: TensorRtBackend) -> None:
    with pytest.raises(
        BackendError,
        match=r"engine purifier-01: .*expected inputs atom_mask float32 \[1, 12\], image .*got image",
    ):
        backend.purify(1, IMAGE, {})
    with pytest.raises(BackendError, match=r"engine classifier-00: .*got image float64 \[1, 3, 16, 16\]"):
        backend.classify(0, IMAGE.astype(np.float64))
    with pytest.raises(BackendError, match=r"got image float32 \[1, 3, 8, 8\]"):
        backend.classify(0, IMAGE[..., :8, :8])


@pytest.mark.parametrize(
    ("built", "differs"),
    [
        ({"version": "10.4.1"}, "TensorRT 10.4.1, not this host's TensorRT 10.3.0"),
        ({"gpu": "Fake Nano"}, "the GPU Fake Nano, not this host's Fake Orin"),
        ({"capabilities": ("7.5",)}, "compute capability 7.5, not this host's 8.7"),
    ],
)
def test_engines_of_another_host_are_refused(
    bundle: Bundle, gpu: FakeGpu, built: dict[str, Any], differs: str
) -> None:
    write_engines(bundle, **built)
    with pytest.raises(BackendError) as caught:
        TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    assert re.search(
        rf"engine purifier-00.*was built for {re.escape(differs)}; build it: edge-export", str(caught.value)
    )
    gpu.require_nothing_held()


def test_engines_that_were_not_built_name_the_command(bundle: Bundle, gpu: FakeGpu) -> None:
    with pytest.raises(BackendError, match=r"none was built for TensorRT yet; build it: edge-export engines"):
        TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu))
    gpu.require_nothing_held()


@pytest.mark.parametrize("version", ["8.5.2", "12.0"])
def test_a_version_that_is_not_served_is_named(bundle: Bundle, gpu: FakeGpu, version: str) -> None:
    with pytest.raises(BackendError, match=rf"expected TensorRT 10.x or 11.x, got {version}; install one"):
        TensorRtBackend(bundle, module=FakeTensorRt(gpu, version), open_driver=fake_driver(gpu))
    assert gpu.calls == []


def test_the_real_tensorrt_says_why_it_loads_nothing_without_a_gpu(bundle: Bundle, gpu: FakeGpu) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'edge-purify[rtx]'")
    if gpu_nodes():
        pytest.skip("there is a GPU, where this would load")
    write_engines(
        bundle, backend="tensorrt-rtx", version=trt.__version__, gpu=None, capabilities=("8.0+",),
        plans={"purifier-00": real_plan(trt, bundle)},
    )  # fmt: skip
    with pytest.raises(
        BackendError, match=r"engine purifier-00 .*TensorRT-RTX .*can't load it: .*cudaError 35"
    ):
        TensorRtBackend(bundle, "tensorrt-rtx", module=trt, open_driver=fake_driver(gpu))
    gpu.require_nothing_held()


# --- choosing it


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("tensorrt", "tensorrt", "'edge-purify[tensorrt]', or on a Jetson 'edge-purify[jetson]'"),
        ("tensorrt-rtx", "tensorrt_rtx", "'edge-purify[rtx]'"),
    ],
)
def test_without_tensorrt_one_line_names_the_extra_and_doctor(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError) as caught:
        open_backend(bundle, name)
    assert str(caught.value).startswith(f"backend {name}: {module} can't be imported (")
    assert f"); pip install {extra}; 'edge-purify doctor' says what this machine has" in str(caught.value)


def test_a_stray_folder_of_that_name_is_not_tensorrt(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    if getattr(find_spec("tensorrt"), "origin", None) is not None:
        pytest.skip("TensorRT is installed, and a package goes before a mere folder")
    with pytest.raises(BackendError, match=r"tensorrt can't be imported \(it is some other module"):
        open_backend(bundle, "tensorrt")


def test_without_a_driver_one_line_says_so(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(
        BackendError,
        match=r"backend tensorrt: CUDA: neither cuda-python nor pycuda can be imported .*pip install",
    ):
        TensorRtBackend(bundle, module=FakeTensorRt(gpu))


def test_auto_takes_the_gpu_where_there_is_one(bundle: Bundle, gpu: FakeGpu, present: FakeTensorRt) -> None:
    write_engines(bundle)
    opened = open_backend(bundle)
    assert opened.name == "tensorrt"
    opened.close()
    gpu.require_nothing_held()


def test_engines_of_an_unsigned_bundle_are_announced_as_code(
    bundle: Bundle, gpu: FakeGpu, present: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    write_engines(bundle)
    listed = msgspec.structs.replace(bundle.manifest, plans=(File("engines/a.plan", "0" * 64),))
    for signed_by, expected in ((None, 1), ("a key", 0)):
        caplog.clear()
        open_backend(Bundle(bundle.folder, listed, bundle.labels, bundle.digest, signed_by)).close()
        assert caplog.text.count("built engines, which are code") == expected


def test_the_number_and_the_binding_reach_the_driver(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def refuse(device: int, binding: str) -> Driver:
        asked.append((device, binding))
        raise BackendError("no GPU in this test")

    monkeypatch.setattr("sdk.backends.cuda.open_driver", refuse)
    monkeypatch.setattr("sdk.backends.tensorrt.import_library", lambda name: FakeTensorRt(FakeGpu()))
    with pytest.raises(BackendError, match="no GPU in this test"):
        Purifier.load(bundle, backend="tensorrt", device=3, cuda_binding="pycuda")
    assert asked == [(3, "pycuda")]


@pytest.mark.parametrize("device", [-1, True, "0"])
def test_a_device_that_is_no_number_is_refused(bundle: Bundle, device: Any) -> None:
    with pytest.raises(UsageError, match="device: expected the number of a GPU"):
        open_backend(bundle, "tensorrt", device=device)


def test_auto_falls_back_with_one_notice_that_names_the_command(
    bundle: Bundle, gpu: FakeGpu, present: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_backend(bundle)
    assert opened.name == "onnxruntime"
    assert len(caplog.messages) == 1
    assert re.match(
        r"using onnxruntime, not the GPU: engine purifier-00 \(fp32\): none was built for TensorRT yet; "
        "build it: edge-export engines ", caplog.messages[0]
    )  # fmt: skip
    gpu.require_nothing_held()


def test_auto_falls_back_where_tensorrt_cannot_start(
    bundle: Bundle, gpu: FakeGpu, present: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    write_engines(bundle)
    present.refuse = "Runtime"
    assert open_backend(bundle).name == "onnxruntime"
    assert caplog.messages == [f"using onnxruntime, not the GPU: {CANNOT_START}"]
    gpu.require_nothing_held()


def test_auto_without_a_gpu_says_so_once_and_warns_of_nothing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sdk.backends.gpu_nodes", list)
    with caplog.at_level(logging.INFO, "sdk"):
        assert open_backend(bundle).name == "onnxruntime"
        assert open_backend(bundle, "onnxruntime").name == "onnxruntime"
    assert caplog.messages == [
        "backend auto: no NVIDIA GPU here, so the CPU runs the engines, by onnxruntime"
    ]
    assert caplog.records[0].levelno == logging.INFO


@pytest.fixture
def present(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A machine with the fake GPU and the fake TensorRT installed."""
    trt = FakeTensorRt(gpu)
    monkeypatch.setattr("sdk.backends.gpu_nodes", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr("sdk.backends.find_spec", lambda name: name if name == "tensorrt" else None)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", FakeCudaBindings(gpu))
    monkeypatch.setitem(sys.modules, "cuda.bindings", Named)
    return trt


def fake_driver(gpu: FakeGpu) -> Callable[[], Driver]:
    return lambda: CudaPython(FakeCudaBindings(gpu))


def with_index_purifiers(folder: Path, takes: tuple[int, int]) -> Bundle:
    """The tiny bundle, its first purifiers shifting the image by the sum of the indices they are given."""
    helper = onnx.helper
    manifest = Bundle.open(folder).manifest
    purifiers = list(manifest.purifiers)
    for index, take in enumerate(takes):
        spec = RandomInput("keep", "subset", 12, take, "indices", "int64", (1, take))
        nodes = [
            helper.make_node("Cast", ["keep"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["real"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "scale"], ["shift"]),
            helper.make_node("Sub", ["image", "shift"], ["purified"]),
        ]
        floats = {
            name: helper.make_tensor_value_info(name, TensorProto.FLOAT, IMAGE.shape)
            for name in ("image", "purified")
        }
        graph = helper.make_graph(
            nodes,
            "keep",
            [floats["image"], helper.make_tensor_value_info("keep", TensorProto.INT64, [1, take])],
            [floats["purified"]],
            [onnx.numpy_helper.from_array(np.float32(0.001), "scale")],
        )
        path = folder / purifiers[index].onnx["fp32"].file
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
        file = File(purifiers[index].onnx["fp32"].file, sha256_of(path))
        purifiers[index] = msgspec.structs.replace(
            purifiers[index], onnx={"fp32": file}, random_inputs=(spec,)
        )
    write_manifest(folder, msgspec.structs.replace(manifest, purifiers=tuple(purifiers)))
    return Bundle.open(folder)


def any_batch(path: Path) -> bytes:
    """An ONNX file with its batch left open, as one built with a profile."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return bytes(model.SerializeToString())


def summing_classifier(elem_type: int = TensorProto.FLOAT, side: int = 16) -> bytes:
    """A classifier's names with an input of another type or size."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["real", "axes"], ["sums"], keepdims=0),
        helper.make_node("Pad", ["sums", "pads"], ["logits"]),
    ]
    constants = {"axes": np.array([2, 3]), "pads": np.array([0, 0, 0, 1])}
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("image", elem_type, [1, 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def real_plan(trt: Any, bundle: Bundle) -> bytes:
    """A purifier built by the real library, which needs no GPU for that."""
    log = log_of(trt)  # lives as long as the process: TensorRT keeps the first one
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(bundle.path(bundle.manifest.purifiers[0].onnx["fp32"]).read_bytes())
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))
