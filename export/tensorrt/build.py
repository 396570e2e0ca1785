"""One engine from one ONNX file, over the TensorRT module that it is given.

The same code serves ``tensorrt`` 10 and 11 and ``tensorrt_rtx``. With ``tensorrt_rtx`` the tests execute
it, without a GPU; with ``tensorrt`` it is *not executed on a GPU*, and every attribute that it uses is held
to the signatures of the classes that ``tensorrt_rtx`` has under the same names.

A network is always strongly typed: the precision is in the ONNX graph, as casts or Q/DQ pairs, and TensorRT
may not choose another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sdk.backends.tensorrt_log import errors_into, log_of
from sdk.errors import EdgePurifyError, UsageError

MIB = 1 << 20
DLA_SINCE = (11, 4, 1)  # strongly typed networks
LOG_LINES = 8  # of TensorRT's errors in ours; the first ones say why, the others follow from them

OnPhase = Callable[[str], None]


class BuildError(EdgePurifyError):
    """An engine can't be built, or can't be written."""


@dataclass(frozen=True)
class Profile:
    """The range of shapes of one input whose ONNX shape is dynamic."""

    input: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Profile:
        """From ``NAME=MIN:OPT:MAX``, each shape like 1x3x32x32; the inverse of ``str``.

        Raises:
            UsageError: it isn't that, or the shapes don't follow each other.
        """
        name, _, shapes = text.partition("=")
        try:
            low, opt, high = (tuple(map(int, shape.split("x"))) for shape in shapes.split(":"))
            fits = all(1 <= a <= b <= c for a, b, c in zip(low, opt, high, strict=True))
        except ValueError:
            fits = False
        if not name or not fits:
            raise UsageError(
                f"profile: expected NAME=MIN:OPT:MAX, growing and each like 1x3x32x32, got {text!r}"
            )
        return cls(name, low, opt, high)

    def __str__(self) -> str:
        shapes = ("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))
        return f"{self.input}={':'.join(shapes)}"


@dataclass(frozen=True)
class Options:
    """What shapes a build beside the graph; a part of the engine's fingerprint.

    ``dla`` is the number of the deep-learning accelerator that runs what it can; None leaves all to the GPU.
    ``batch`` is how many images it takes at a time.
    """

    workspace_mib: int
    profiles: tuple[Profile, ...] = ()
    dla: int | None = None
    batch: int = 1

    def fields(self) -> dict[str, int | str]:
        """For the fingerprint; ``recipe`` counts the changes of this module that change an engine."""
        profiles = {"profiles": " ".join(map(str, self.profiles))} if self.profiles else {}
        dla = {} if self.dla is None else {"dla": self.dla}
        batch = {} if self.batch == 1 else {"batch": self.batch}
        return {"recipe": 1, "workspace_mib": self.workspace_mib, **profiles, **dla, **batch}


class Built(NamedTuple):
    """A serialized engine, and the kernels' timings that its build leaves, where it was to keep them."""

    plan: bytes
    timings: bytes | None


def build_plan(
    trt: Any,
    onnx: bytes,
    options: Options,
    *,
    known_timings: bytes | None = None,
    on_phase: OnPhase = lambda phase: None,
    on_notice: OnPhase = lambda notice: None,
) -> Built:
    """Build the serialized engine of an ONNX file.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        known_timings: what an earlier build left, which makes this one faster, or b"" if there was none;
            None keeps no timings.
        on_phase: called with the builder's phases as they begin, perhaps from TensorRT's own threads.
        on_notice: called with what the user should know of the engine, such as layers that a DLA can't run.

    Raises:
        BuildError: TensorRT refuses; the message holds its own log lines.
    """
    log, errors = log_of(trt), _Errors()
    with errors_into(log, errors):
        try:
            builder = trt.Builder(log)
        except (TypeError, RuntimeError):  # what the binding makes of a null pointer; the log says why
            raise BuildError(
                f"can't start: {errors.text()}; is the driver new enough? 'edge-purify doctor' looks"
            ) from None
        network = _strongly_typed_network(trt, builder, errors)
        parser = trt.OnnxParser(network, log)
        if not parser.parse(onnx):
            raise BuildError(f"can't parse the ONNX file: {errors.text()}")
        config = builder.create_builder_config()
        _limit_workspace(trt, config, options.workspace_mib)
        # fp32 means fp32: TF32's 10-bit mantissa would miss the bound that golden outputs are held to
        config.clear_flag(trt.BuilderFlag.TF32)
        monitor = _progress_monitor(trt, on_phase)
        config.progress_monitor = monitor
        _add_profiles(builder, network, config, options.profiles)
        if options.dla is not None:
            _prefer_dla(trt, network, config, options.dla, on_notice)
        if known_timings is not None:
            _start_from(config, known_timings)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"can't build the engine: {errors.text()}")
        return Built(bytes(plan), None if known_timings is None else _timings(config))


def unwritable(error: OSError, path: Path) -> str:
    """What the user reads when a file system refuses; ``path`` stands in where the error names none."""
    return (
        f"{error.filename or path}: can't be written: {error.strerror}; "
        "make room, or choose another place (XDG_CACHE_HOME, --into-bundle)"
    )


def _strongly_typed_network(trt: Any, builder: Any, errors: _Errors) -> Any:
    """10.x takes a flag for it; where the flag is gone, there is nothing else than strong typing."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    if network is None:
        raise BuildError(f"can't create a network: {errors.text()}")
    if flag is not None and not network.get_flag(flag):
        raise BuildError("didn't make the network strongly typed, so precisions would be its own choice")
    return network


def _add_profiles(builder: Any, network: Any, config: Any, profiles: tuple[Profile, ...]) -> None:
    """Hold the profiles to the inputs whose shape is dynamic; static shapes need and take none."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {tensor.name: tuple(tensor.shape) for tensor in inputs if -1 in tuple(tensor.shape)}
    given = {profile.input: profile for profile in profiles}
    for name, shape in dynamic.items():
        if name not in given:
            raise BuildError(
                f"can't build for every shape of input {name!r}, {list(shape)}; give its range: "
                f"--profile {name}=MIN:OPT:MAX, each like 1x3x32x32"
            )
    if not profiles:
        return
    ranges = builder.create_optimization_profile()
    for name, wanted in given.items():
        if name not in dynamic:
            names = ", ".join(dynamic) or "none"
            raise BuildError(f"can't take profile {wanted}: the inputs of dynamic shape are: {names}")
        ranges.set_shape(name, wanted.min, wanted.opt, wanted.max)
    if config.add_optimization_profile(ranges) < 0:
        raise BuildError(f"can't take profiles {', '.join(map(str, profiles))}: they contradict the graph")


def _prefer_dla(trt: Any, network: Any, config: Any, core: int, on_notice: OnPhase) -> None:
    """Give a DLA what it can run, and the GPU the rest. *Not executed on a GPU*."""
    version = tuple(int(part) for part in trt.__version__.split(".")[:3])
    if version < DLA_SINCE:
        raise BuildError(
            f"can't use a DLA: with strong typing TensorRT serves it from {'.'.join(map(str, DLA_SINCE))} on",
            hint="leave --dla out",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if left:
        shown = ", ".join(left[:LOG_LINES]) + (", …" if len(left) > LOG_LINES else "")
        on_notice(f"DLA {core} can't run {len(left)} of {len(layers)} layers, so the GPU does: {shown}")


def _limit_workspace(trt: Any, config: Any, workspace_mib: int) -> None:
    """Set the limit, and see that it took: one that TensorRT can't take, it drops without a word."""
    pool = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(pool, workspace_mib * MIB)
    taken = config.get_memory_pool_limit(pool)
    if taken != workspace_mib * MIB:
        raise BuildError(
            f"can't take a workspace of {workspace_mib} MiB, and would take {taken // MIB}; lower --workspace"
        )


def _start_from(config: Any, known: bytes) -> None:
    """Start from known timings; from none where they are of another TensorRT or GPU."""
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _timings(config: Any) -> bytes:
    timings = config.get_timing_cache()
    return bytes(timings.serialize())


class _Errors(list[str]):
    """TensorRT's error lines of one build, for the exception: only there does it say why."""

    def text(self) -> str:
        lines = list(dict.fromkeys(" ".join(line.split()) for line in self))
        more = f" (and {len(lines) - LOG_LINES} more)" if len(lines) > LOG_LINES else ""
        return (" | ".join(lines[:LOG_LINES]) or "TensorRT logged no reason") + more


def _progress_monitor(trt: Any, on_phase: OnPhase) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            on_phase(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

    return Monitor()
