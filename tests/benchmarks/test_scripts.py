"""The scripts under ``benchmarks/``, as far as they go without the peers."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sdk.bundle import Bundle, default_bundle
from trainer.models.twin import read_twin

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_overheads_are_held_to_their_bounds() -> None:
    import peers

    from sdk.benchmark.report import Quantiles

    def rows(ours: float, ultralytics: float, model_api: float) -> dict[str, peers.Row]:
        overheads = {peers.OURS: ours, peers.ULTRALYTICS: ultralytics, peers.MODEL_API_AREA: model_api}
        return {
            name: peers.Row(Quantiles(9, 9, 9), 9 - ms, ms, "", aliases=False)
            for name, ms in overheads.items()
        }

    assert [check.passed for check in peers.checks(rows(0.5, 1.5, 0.5))] == [True, True]
    assert [check.passed for check in peers.checks(rows(0.5, 1.4, 0.5))] == [False, True]
    assert [check.passed for check in peers.checks(rows(0.5, 1.5, 0.4))] == [True, False]


def test_a_side_that_is_wired_wrongly_is_refused() -> None:
    import contenders

    from sdk.errors import BackendError

    bundle = Bundle.open(default_bundle())
    with pytest.raises(BackendError, match=r"stuck: expected .* for a golden picture, got 'nothing'"):
        contenders.check_wiring(bundle, "stuck", lambda frame: "nothing", (64, 48))


@pytest.mark.skipif(find_spec("ultralytics") is not None, reason="the peers are installed")
def test_peers_that_are_not_installed_are_named_with_the_remedy() -> None:
    command = [sys.executable, str(SCRIPTS / "peers.py"), "--frames", "10", "--size", "64x64"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "ultralytics can't be imported" in done.stderr
    assert "pip install -r benchmarks/requirements.txt" in done.stderr


def test_a_bundle_of_another_size_has_the_same_networks() -> None:
    from bundle_of_size import of_size

    bundle = Bundle.open(default_bundle())
    loaded, twin = of_size(bundle, 48), read_twin(bundle)
    images = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    draw = twin.draw(4, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(loaded.defence(images, draw), twin(images, draw))
    assert (loaded.image_size, loaded.family) == ((48, 48), "ren")
    assert loaded.provenance["trained_for"] == "32x32"


def test_a_bundle_of_another_size_may_time_a_maep_in_tiles() -> None:
    from bundle_of_size import of_size

    loaded = of_size(Bundle.open(default_bundle()), 49, maep=True, overlap=8)
    assert (loaded.image_size, loaded.family) == ((49, 49), "maep")
    assert loaded.defence.purifier.tiles(49, 49).count == 4
    images = torch.rand(1, 3, 49, 49, generator=torch.Generator().manual_seed(0))
    draw = loaded.defence.draw(1, torch.Generator().manual_seed(1))
    with torch.inference_mode():  # an untrained MAEP changes nothing, and its tiles hide nothing
        assert torch.allclose(loaded.defence.purify(images, draw), images, atol=1e-6)


def test_the_plot_of_a_soak(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import soak_plot
    from click.testing import CliRunner

    from sdk.benchmark import as_json
    from tests.sdk.benchmark.test_unattended import long_run, report_of

    (tmp_path / "soak.json").write_text(as_json(report_of(long_run())))
    done = CliRunner().invoke(soak_plot.main, [str(tmp_path / "soak.json"), str(tmp_path / "soak.png")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.json").write_text("{}")
    done = CliRunner().invoke(soak_plot.main, [str(tmp_path / "other.json"), str(tmp_path / "x.png")])
    assert done.exit_code == 1
    assert "no report of a benchmark" in done.output
