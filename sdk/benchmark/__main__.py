"""Child processes of the benchmark: ``python -m sdk.benchmark resident|soak|unattended …``.

Prints JSON on standard output, and an error of the SDK's as one line on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.benchmark import endurance, unattended
from sdk.benchmark.subject import with_bank_of
from sdk.bundle import Bundle, Precision
from sdk.errors import EdgePurifyError


def main(what: str, folder: str, precision: str, *numbers: str) -> None:
    width, height, purifiers, frames = map(int, numbers)
    bundle = with_bank_of(Bundle.open(folder), purifiers)
    backend = OnnxRuntimeBackend(bundle, cast(Precision, precision))
    measures: dict[str, Callable[..., Iterator[Any]]] = {
        "resident": endurance.resident_bytes,
        "soak": endurance.endure,
        "unattended": unattended.endure_unattended,
    }
    measure = measures[what]
    for found in measure(bundle, backend, (width, height), frames):
        print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except EdgePurifyError as error:
        sys.exit(str(error))
