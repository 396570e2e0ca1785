"""The measure of what latency tells of the draw: it finds a leak where there is one, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdk.bundle import Bundle


@pytest.fixture(autouse=True)
def _scripts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def test_engines_of_different_times_are_told_apart() -> None:
    from draw_leak import accuracy

    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 4, 20_000)
    noise_ms = rng.normal(1, 0.1, 20_000)
    assert accuracy(noise_ms, drawn, 4) < 0.25 + 0.02, "it tells nothing from nothing"
    assert accuracy(noise_ms + 0.02 * drawn, drawn, 4) > 0.25 + 0.02, "a fifth of the noise's width"
    assert accuracy(noise_ms + drawn, drawn, 4) > 0.99


def test_it_measures_a_bundle(tiny_bundle: Path) -> None:
    from draw_leak import measure

    latencies, purifiers, classifiers = measure(Bundle.open(tiny_bundle), 50)
    assert {stage: len(values) for stage, values in latencies.items()} == dict.fromkeys(
        ("total", "purify", "classify"), 50
    )
    assert (set(purifiers), set(classifiers)) == ({0, 1, 2}, {0, 1})
