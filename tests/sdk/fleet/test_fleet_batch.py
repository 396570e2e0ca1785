"""A batch on a real Ray cluster of two workers: one record a picture, whatever is lost or stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sdk.cli import main
from sdk.fleet import cluster
from sdk.fleet.batch import Job, run
from sdk.fleet.parts import Parts
from sdk.sinks.record import Record
from tests.sdk.fleet.conftest import picture, processes

pytest.importorskip("ray", reason="Ray is not installed; pip install 'edge-purify[ray]'")


def recorded(output: Path) -> Counter[str]:
    from pyarrow import parquet

    tables = [parquet.read_table(path, columns=["source"]) for path in Parts(output).files()]
    return Counter(source for table in tables for source in table["source"].to_pylist())


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_a_worker_killed_in_mid_work_loses_nothing_and_repeats_nothing(ray: Any, tmp_path: Path) -> None:
    """Killed when the first record has come; then the batch is stopped, and a second run finishes it."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(160):
        (folder / f"p-{number}.png").write_bytes(picture(number))
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff and no more")
    expected = Counter(str(path) for path in folder.iterdir())
    job = Job([str(folder)], tmp_path / "out", workers=2)
    killed: list[int] = []
    n_records = 0

    def on_record(record: Record) -> None:
        nonlocal n_records
        n_records += 1
        if not killed:
            killed.extend(processes("ray::MapWorker")[:1])
            os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.5)
        if n_records == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, on_record=on_record)
    assert killed
    assert sum(recorded(tmp_path / "out").values()) == 100  # what had come when it was stopped is written
    summary = run(job)
    assert (summary.pictures, summary.before, summary.done) == (161, 100, 61)
    assert recorded(tmp_path / "out") == expected
    assert run(job).done == 0


def test_the_command_names_what_it_could_not_read(ray: Any, pictures: Path, tmp_path: Path) -> None:
    arguments = ["batch", str(pictures), str(tmp_path / "out"), "--workers", "2", "--hide-draw"]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    told = found.output.splitlines()
    assert f"edge-purify: left out: {pictures}/notes.txt: no picture and no Parquet file, by its name" in told
    assert f"edge-purify: {pictures}/damaged.jpg: a damaged picture; get it again" in told
    assert f"wrote 6 records to {tmp_path}/out: 5 with a label, 1 without, 1 files left out" in told[-1]


def test_without_ray_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda module: None)
    for arguments in (["batch", "in", "out"], ["serve"]):
        found = CliRunner().invoke(main, arguments)
        assert found.exit_code == 1
        (line,) = found.output.splitlines()
        assert line == "edge-purify: error: ray: not installed; pip install 'edge-purify[ray]'"


def test_a_cluster_that_is_not_there_is_one_line(pictures: Path, tmp_path: Path) -> None:
    """Told in a process of its own: this one may be connected already."""
    arguments = ["batch", str(pictures), str(tmp_path / "out"), "--cluster", "127.0.0.1:1"]
    found = subprocess.run(
        [sys.executable, "-m", "sdk.cli", *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1, found.stderr
    assert "edge-purify: error: cluster 127.0.0.1:1: can't be reached: " in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr


def test_usage_reports_are_off_in_the_cluster(ray: Any) -> None:
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"

    @ray.remote
    def told() -> str | None:
        return os.environ.get("RAY_USAGE_STATS_ENABLED")

    assert ray.get(told.remote()) == "0"
