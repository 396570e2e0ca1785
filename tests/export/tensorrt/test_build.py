"""The builder over the real classes of ``tensorrt_rtx``, and its every call held to their signatures."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.tensorrt import build as builder
from export.tensorrt.build import BuildError, Options, build_plan
from sdk.backends.tensorrt_log import errors_into, log_of

trt = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt_rtx isn't installed: pip install 'edge-purify[rtx]'"
)

TYPES = {  # what the builder's variables hold
    "trt": trt,
    "builder": trt.Builder,
    "network": trt.INetworkDefinition,
    "parser": trt.OnnxParser,
    "config": trt.IBuilderConfig,
    "ranges": trt.IOptimizationProfile,
    "tensor": trt.ITensor,
    "timings": trt.ITimingCache,
}


@pytest.fixture
def classifier(tiny_bundle: Path) -> bytes:
    return (tiny_bundle / "onnx" / "classifier-00.onnx").read_bytes()


def uses() -> Iterator[tuple[str, ast.Attribute, ast.Call | None]]:
    """Every ``name.attribute`` of the builder's source with a name in ``TYPES``, and its call, if any."""
    tree = ast.parse(inspect.getsource(builder))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in TYPES:
            yield node.value.id, node, calls.get(id(node))


def test_every_attribute_that_the_builder_uses_is_there() -> None:
    found = {(name, node.attr) for name, node, _ in uses()}
    assert len(found) >= 25  # the walk does see them
    assert not [
        f"{name}.{attribute}" for name, attribute in sorted(found) if not hasattr(TYPES[name], attribute)
    ]


def test_every_call_has_as_many_arguments_as_the_signature_takes() -> None:
    checked = []
    for name, node, call in uses():
        if call is None:
            continue
        least, most = arity(getattr(TYPES[name], node.attr))
        assert not call.keywords, f"{name}.{node.attr}: TensorRT's keywords differ between versions"
        assert least <= len(call.args) <= most, f"{name}.{node.attr} takes {least} to {most} arguments"
        checked.append(node.attr)
    assert {"create_network", "parse", "set_memory_pool_limit", "build_serialized_network", "set_shape"} <= {
        *checked
    }


def arity(callee: Any) -> tuple[int, int]:
    """The least and the most positional arguments, from a class's or method's docstring."""
    signature = (callee.__init__ if inspect.isclass(callee) else callee).__doc__.strip().splitlines()[0]
    inside = re.fullmatch(r"\w+\((.*)\) -> .*", signature)
    assert inside is not None, signature
    parameters = [text for text in re.split(r", (?=\w+: )", inside[1]) if not text.startswith("self")]
    return sum(" = " not in text for text in parameters), len(parameters)


@pytest.mark.parametrize(
    ("base", "method"),
    [
        ("ILogger", "log"),
        ("IProgressMonitor", "phase_start"),
        ("IProgressMonitor", "phase_finish"),
        ("IProgressMonitor", "step_complete"),
    ],
)
def test_what_tensorrt_calls_has_the_signature_that_it_calls(base: str, method: str) -> None:
    ours = log_of(trt) if base == "ILogger" else builder._progress_monitor(trt, print)
    text = getattr(getattr(trt, base), method).__doc__
    theirs = re.findall(r"(\w+): ", text[text.index("self") : text.index(") ->")])
    assert ["self", *inspect.signature(getattr(ours, method)).parameters] == theirs


def test_a_monitor_that_nobody_listens_to_lets_the_build_go_on() -> None:
    assert builder._progress_monitor(trt, lambda phase: None).step_complete("phase", 1) is True


def test_the_same_file_gives_the_same_plan(classifier: bytes) -> None:
    phases: list[str] = []
    plan, timings = build_plan(trt, classifier, Options(64), on_phase=phases.append)
    assert len(plan) > 10_000
    assert timings is None
    assert plan == build_plan(trt, classifier, Options(64)).plan
    assert "Building engine" in phases


def test_a_tensorrt_that_cannot_start_says_why(classifier: bytes) -> None:
    def refuse(log: Any) -> None:
        log.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    broken = SimpleNamespace(ILogger=trt.ILogger, Builder=refuse)
    with pytest.raises(
        BuildError, match=r"^can't start: CUDA initialization failure with error: 35; is the driver new"
    ):
        build_plan(broken, classifier, Options(64))


class Spy:
    """``tensorrt_rtx``, keeping the configurations that are made."""

    def __init__(self) -> None:
        self.configs: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(trt, name)

    def Builder(self, log: Any) -> Any:
        real = trt.Builder(log)

        def create_builder_config() -> Any:
            self.configs.append(real.create_builder_config())
            return self.configs[-1]

        return SimpleNamespace(
            create_builder_config=create_builder_config,
            create_network=real.create_network,
            build_serialized_network=real.build_serialized_network,
        )


def test_the_workspace_is_held_to_and_fp32_is_no_tf32(classifier: bytes) -> None:
    spy = Spy()
    build_plan(spy, classifier, Options(64))
    (config,) = spy.configs
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.num_optimization_profiles == 0


def test_a_workspace_that_tensorrt_drops_without_a_word_is_refused() -> None:
    config = SimpleNamespace(
        set_memory_pool_limit=lambda pool, size_bytes: None, get_memory_pool_limit=lambda pool: 512 << 20
    )
    with pytest.raises(
        BuildError, match=r"^can't take a workspace of 4096 MiB, and would take 512; lower --workspace$"
    ):
        builder._limit_workspace(trt, config, 4096)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_build_leaves_timings_that_the_next_takes(classifier: bytes) -> None:
    first = build_plan(trt, classifier, Options(64), known_timings=b"")
    assert first.timings
    assert build_plan(trt, classifier, Options(64), known_timings=first.timings) == first


def test_timings_of_another_gpu_are_set_aside() -> None:
    """TensorRT says False to a cache of another version or GPU; then the build starts from an empty one."""
    given = []

    def set_timing_cache(cache: bytes, ignore_mismatch: bool) -> bool:
        given.append((cache, ignore_mismatch))
        return cache == b""

    config = SimpleNamespace(create_timing_cache=bytes, set_timing_cache=set_timing_cache)
    builder._start_from(config, b"another GPU's")
    assert given == [(b"another GPU's", False), (b"", False)]


class Network:
    """A network that says whether it is strongly typed, and keeps the flags that it was made with."""

    def __init__(self, strong: bool) -> None:
        self.strong, self.flags = strong, -1

    def create_network(self, flags: int) -> Network:
        self.flags = flags
        return self

    def get_flag(self, flag: int) -> bool:
        return self.strong


def test_strong_typing_is_asked_for_where_that_is_a_choice() -> None:
    made = Network(strong=True)
    module = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1))
    assert builder._strongly_typed_network(module, made, None) is made
    assert made.flags == 0b10


def test_strong_typing_is_not_asked_for_where_the_flag_is_gone() -> None:
    made = Network(strong=False)
    module = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert builder._strongly_typed_network(module, made, None) is made
    assert made.flags == 0


def test_a_network_that_is_not_strongly_typed_all_the_same_is_refused() -> None:
    module = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1))
    with pytest.raises(BuildError, match="didn't make the network strongly typed"):
        builder._strongly_typed_network(module, Network(strong=False), None)


def test_of_many_log_lines_the_first_are_shown_once_each_and_the_rest_counted() -> None:
    log, errors = log_of(trt), builder._Errors()
    with errors_into(log, errors):
        for number in range(10):
            for _ in range(2):
                log.log(trt.ILogger.ERROR, f"why\n {number}")
        log.log(trt.ILogger.WARNING, "never shown")
    assert errors.text() == " | ".join(f"why {number}" for number in range(8)) + " (and 2 more)"


def test_a_failure_without_a_reason_says_so() -> None:
    assert builder._Errors().text() == "TensorRT logged no reason"


def test_the_log_reaches_the_error(tiny_bundle: Path) -> None:
    with pytest.raises(BuildError, match=r"can't build the engine: .*Network must have at least one output"):
        build_plan(trt, b"", Options(64))
