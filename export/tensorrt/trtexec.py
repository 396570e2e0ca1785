"""The command of NVIDIA's own tool that builds the same engine, for who wants to compare or to look closer.

The flags are those of ``trtexec``, which comes with TensorRT, and of ``tensorrt_rtx``, which comes with
TensorRT-RTX. *Not executed on a GPU*.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from export.tensorrt.build import Options, Profile
from export.tensorrt.devices import Target, find_target
from export.tensorrt.engines import choose, options_for
from sdk.bundle import Bundle, Precision


def dry_run(
    bundle: Bundle,
    target_name: str,
    *,
    precisions: Sequence[str] = (),
    workspace_mib: int | None = None,
    profiles: tuple[Profile, ...] = (),
    dla: int | None = None,
) -> list[str]:
    """The commands that would build the same engines as ``build_engines``; no TensorRT or GPU is needed.

    Raises:
        UsageError: no such target or precision, or the target has no DLA.
    """
    target = find_target(target_name)
    options = options_for(target, (workspace_mib, profiles, dla))
    return list(_commands(bundle, target, choose(bundle, target, precisions), options))


def _commands(
    bundle: Bundle, target: Target, precisions: Sequence[Precision], options: Options
) -> Iterator[str]:
    """One command for each engine and precision, purifiers first; each writes into the current folder."""
    for precision in precisions:
        for engine in bundle.manifest.engines:
            is_purifier = engine in bundle.manifest.purifiers
            yield shlex.join(
                [
                    "trtexec" if target.backend == "tensorrt" else "tensorrt_rtx",
                    f"--onnx={bundle.path(engine.onnx[precision])}",
                    f"--saveEngine={engine.id}.{precision}.plan",
                    *_flags(target, replace(options, dla=None) if is_purifier else options),
                ]
            )


def _flags(target: Target, options: Options) -> Iterator[str]:
    if target.backend == "tensorrt":
        if any(line.split(".")[0] == "10" for line in target.lines):  # later ones know nothing else
            yield "--stronglyTyped"
        yield "--noTF32"
    yield f"--memPoolSize=workspace:{options.workspace_mib}M"
    for which in ("min", "opt", "max") if options.profiles else ():
        yield f"--{which}Shapes={','.join(_shape(profile, which) for profile in options.profiles)}"
    if options.dla is not None:
        yield from (f"--useDLACore={options.dla}", "--allowGPUFallback")


def _shape(profile: Profile, which: str) -> str:
    return f"{profile.input}:{'x'.join(map(str, getattr(profile, which)))}"
