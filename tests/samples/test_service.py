"""The sample service and container: what they take away, as the tools that read them see it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sdk.cli import main

SAMPLES = Path(__file__).parents[2] / "samples"
UNIT = SAMPLES / "systemd" / "edge-purify.service"
MAX_EXPOSURE = 15  # tenths, of systemd's scale from 0 (safe) to 100

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def settings() -> dict[str, list[str]]:
    """Every setting of the unit, with all its values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_unit_takes_away_what_the_loop_does_not_need() -> None:
    expected = {
        "Type": "notify",
        "Restart": "always",
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateNetwork": "yes",
        "RestrictAddressFamilies": "AF_UNIX",
        "DevicePolicy": "closed",
        "DeviceAllow": "char-video4linux rw",
        "SystemCallArchitectures": "native",
    }
    found = settings()
    assert {key: found.get(key) for key in expected} == {key: [value] for key, value in expected.items()}
    assert int(found["WatchdogSec"][0]) >= 30
    assert not any(key.startswith("Log") for key in found), "the journal rotates what it holds"


def test_unit_s_options_are_the_command_s() -> None:
    known = {option for parameter in main.params for option in parameter.opts}
    text = UNIT.read_text() + (SAMPLES / "systemd" / "edge-purify.env").read_text()
    used = re.findall(r"(?<=[= ])--[a-z-]+", "\n".join(re.findall(r"EDGE_PURIFY_OPTIONS=.*", text)))
    assert used
    assert set(used) <= known


@needs_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    about_it = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, about_it) == (0, [])


@needs_systemd
def test_systemd_rates_the_unit_as_safe() -> None:
    line = [
        "systemd-analyze",
        "security",
        "--offline=yes",
        f"--threshold={MAX_EXPOSURE}",
        "--no-pager",
        str(UNIT),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    if "offline" in done.stderr:
        pytest.skip("this systemd can't rate a unit that is not loaded")
    assert done.returncode == 0, done.stdout[-300:]


def test_container_runs_as_a_user_and_ends_with_files_finished() -> None:
    lines = (SAMPLES / "container" / "Containerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert any(line.startswith("ENTRYPOINT [") for line in lines), "no shell between it and the signal"
    assert not [line for line in lines if ":latest" in line or line.startswith("ADD ")]


def test_container_is_started_without_rights_and_network(tmp_path: Path) -> None:
    engine = tmp_path / "podman"
    engine.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    engine.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = SAMPLES / "container" / "run.sh"
    done = subprocess.run(
        ["sh", str(run), "image", "--camera", "0"], env=variables, capture_output=True, text=True, check=True
    )
    given = done.stdout.splitlines()
    assert given[-3:] == ["image", "--camera", "0"]
    for flag, value in (
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--network", "none"),
        ("--device", "/dev/video0"),
    ):
        assert given[given.index(flag) + 1] == value
    assert "--read-only" in given
    assert "--privileged" not in given
