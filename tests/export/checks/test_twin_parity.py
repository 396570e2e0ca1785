"""Every engine against its twin under the same draws, and the gate on the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from export.checks.gate import gate
from export.checks.twin_parity import parity
from sdk.backends import open_backend
from sdk.backends.interface import Backend, Float
from sdk.bundle import Bundle
from sdk.bundle.deviation import BOUND, Deviation, deviation
from sdk.errors import GateError
from trainer.models.twin import read_twin


@pytest.fixture
def backend(bundle: Bundle) -> Iterator[Backend]:
    opened = open_backend(bundle, "onnxruntime", "fp32")
    yield opened
    opened.close()


class Tampered:
    """A backend whose classifier 1 is off by ``shift``, or whose purifiers ignore the draw's mask."""

    def __init__(self, honest: Backend, *, shift: float = 0.0, ignore_mask: bool = False) -> None:
        self.honest, self.shift, self.ignore_mask = honest, shift, ignore_mask

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        if self.ignore_mask:
            random_inputs = {name: np.ones_like(value) for name, value in random_inputs.items()}
        return self.honest.purify(purifier, image, random_inputs)

    def classify(self, classifier: int, image: Float) -> Float:
        return self.honest.classify(classifier, image) + np.float32(self.shift if classifier == 1 else 0)


def test_every_engine_is_within_1e_4_of_the_twin_on_64_images(bundle: Bundle, backend: Backend) -> None:
    found = parity(bundle, backend, read_twin(bundle), n_images=64)
    manifest = bundle.manifest
    assert [d.engine for d in found] == [engine.id for engine in manifest.engines]
    assert all(d.n_draws == 64 and 0 < d.max_abs <= 1e-4 for d in found)
    gate(found)


@pytest.mark.parametrize("shift", [2e-4, float("nan")])
def test_an_engine_that_is_off_is_named_and_no_other(bundle: Bundle, backend: Backend, shift: float) -> None:
    found = parity(bundle, Tampered(backend, shift=shift), read_twin(bundle), n_images=4)  # type: ignore[arg-type]
    assert [d.engine for d in found if not d.max_abs <= BOUND] == ["classifier-01"]
    with pytest.raises(
        GateError, match=r"^classifier-01: its logits differs? .* expected at most 1e-04"
    ) as caught:
        gate(found)
    assert caught.value.exit_code == 3


def test_a_purifier_that_ignores_its_draw_is_found(bundle: Bundle, backend: Backend) -> None:
    found = parity(bundle, Tampered(backend, ignore_mask=True), read_twin(bundle), n_images=4)  # type: ignore[arg-type]
    assert all(d.max_abs > 100 * BOUND for d in found if d.output == "purified image")


def test_another_shape_is_an_infinite_difference() -> None:
    found = deviation(
        "purifier-00", "logits", "twin", np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)
    )
    assert found.max_abs == float("inf")
    assert found.complaint


def test_the_bound_itself_passes() -> None:
    gate([Deviation("purifier-00", "purified image", "twin", BOUND, 64)])
    with pytest.raises(GateError):
        gate([Deviation("purifier-00", "purified image", "twin", np.nextafter(BOUND, 1), 64)])
