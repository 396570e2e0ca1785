"""Golden outputs replayed by the runtime's own path: what is right passes, what is changed is named."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sdk.backends.golden import Golden, replay
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle
from sdk.bundle.deviation import BOUNDS
from sdk.errors import BundleError
from tests.sdk.fakes.golden import rehash, with_golden


def test_what_was_recorded_is_what_comes_out(bundle_copy: Path) -> None:
    bundle = with_golden(bundle_copy)
    with closing(OnnxRuntimeBackend(bundle)) as backend:
        deviations = replay(bundle, backend, Golden.load(bundle))
    engines = [*(f"purifier-0{i}" for i in range(3)), *(f"classifier-0{j}" for j in range(2))]
    assert sorted(found.engine for found in deviations) == sorted(engines)
    assert all(found.complaint is None for found in deviations)
    assert sum(found.n_draws for found in deviations) == 2 * 12


def test_an_engine_that_was_exchanged_is_named_and_no_other_purifier(bundle_copy: Path) -> None:
    with_golden(bundle_copy)
    exchanged = bundle_copy / "onnx/purifier-01.onnx"
    exchanged.write_bytes((bundle_copy / "onnx/purifier-02.onnx").read_bytes())
    rehash(bundle_copy)
    bundle = Bundle.open(bundle_copy)
    with closing(OnnxRuntimeBackend(bundle)) as backend:
        deviations = replay(bundle, backend, Golden.load(bundle))
    complaints = [found.complaint for found in deviations if found.complaint]
    assert "purifier-01: its purified image differs from the golden outputs by " in complaints[0]
    assert not any("purifier-00" in complaint or "purifier-02" in complaint for complaint in complaints)


def test_a_file_without_an_array_is_refused(bundle_copy: Path) -> None:
    with pytest.raises(BundleError, match=r"golden\.npz: can't be read as golden outputs: .*; export"):
        Golden.load(Bundle.open(bundle_copy))  # which holds images alone


def test_golden_outputs_survive_saving(bundle_copy: Path) -> None:
    golden = Golden.load(with_golden(bundle_copy))
    golden.save(bundle_copy / "again.npz")
    with np.load(bundle_copy / "again.npz") as stored:
        assert np.array_equal(stored["logits"], golden.logits)
        assert np.array_equal(stored["input.atom_mask"], golden.random_inputs["atom_mask"])


def test_lower_precisions_may_be_further_off() -> None:
    for output in ("purified image", "logits"):
        fp32, fp16, int8 = (BOUNDS[precision, output].max_abs for precision in ("fp32", "fp16", "int8"))
        assert fp32 < fp16 < int8
