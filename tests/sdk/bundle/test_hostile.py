"""Bundles as an attacker would write them: one line for each, in bounded time and memory, and nothing else.

Every mutation is made from a number alone, so a finding is repeated by it. A run takes a sample;
``EDGE_PURIFY_HOSTILE=2000`` takes as many as it says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sdk.host.children import python_code
from tests.sdk.bundle.hostile import mutate

COUNT = int(os.environ.get("EDGE_PURIFY_HOSTILE", "60"))
MAX_S = 10.0
MAX_MIB = 512
BATCH = 20  # mutations that one process tries, one after the other

# Runs in a process of its own, whose memory is capped: opens, loads, replays, classifies, inspects, looks.
TRY = """
import logging, signal, sys, time
import numpy as np
logging.disable(logging.CRITICAL)
from sdk.bundle import Bundle
from sdk.backends import open_backend
from sdk.backends.golden import Golden, replay
from sdk.cli.bundle_view import bundle_json
from sdk.errors import EdgePurifyError
from sdk.purifier import Purifier
print("ready", flush=True)
for line in sys.stdin:
    folder = line.rstrip("\\n")
    begun = time.monotonic()
    signal.alarm(30)  # ends the process
    try:
        bundle = Bundle.open(folder)
        bundle.coverage()
        bundle_json(bundle)
        golden = Golden.load(bundle)
        with Purifier.load(bundle, backend="onnxruntime", precision="fp32", seed=1) as purifier:
            purifier(np.full((30, 40, 3), 90, np.uint8))
            replay(bundle, purifier.backend, golden)
        said = "opened"
    except EdgePurifyError as error:
        said = "refused" if str(error) and "\\n" not in str(error) else "NOT ONE LINE " + repr(str(error))
    except BaseException as error:
        said = f"TRACEBACK {type(error).__name__}: {error}".replace("\\n", " ")[:300]
    signal.alarm(0)
    status = open("/proc/self/status").read()  # getrusage's maximum has the parent's memory in it
    peak_mib = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(f"{time.monotonic() - begun:.2f} {peak_mib:.0f} {said}", flush=True)
"""


@pytest.mark.slow
def test_hostile_bundles_end_in_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    from tests.sdk.fakes.golden import with_golden

    sound = Path(shutil.copytree(tiny_bundle, tmp_path / "sound"))
    with_golden(sound)
    findings: list[str] = []
    counts = {"opened": 0, "refused": 0}
    for start in range(0, COUNT, BATCH):
        with subprocess.Popen(
            python_code(TRY),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            for seed in range(start, min(start + BATCH, COUNT)):
                folder = Path(shutil.copytree(sound, tmp_path / "hostile"))
                what = mutate(folder, seed)
                child.stdin.write(f"{folder}\n")
                child.stdin.flush()
                answer = child.stdout.readline().split(maxsplit=2)
                if len(answer) < 3:
                    findings.append(f"{what}: the process ended with {child.wait()}")
                    break
                seconds, mib, said = float(answer[0]), float(answer[1]), answer[2].strip()
                if said not in counts or seconds > MAX_S or mib > MAX_MIB:
                    findings.append(f"{what}: {seconds} s, {mib} MiB, {said}")
                counts[said] = counts.get(said, 0) + 1
                shutil.rmtree(folder)
            shutil.rmtree(tmp_path / "hostile", ignore_errors=True)
            child.stdin.close()
    assert not findings, "\n".join(findings)
    assert counts["refused"] > COUNT / 3
    assert counts["opened"] < COUNT


def test_a_sound_bundle_passes_the_same_trial(tiny_bundle: Path, tmp_path: Path) -> None:
    """So that 'refused' says something of the mutation and not of the trial."""
    from tests.sdk.fakes.golden import with_golden

    sound = Path(shutil.copytree(tiny_bundle, tmp_path / "sound"))
    with_golden(sound)
    done = subprocess.run(
        python_code(TRY), input=f"{sound}\n", capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1].endswith(" opened"), done.stdout
