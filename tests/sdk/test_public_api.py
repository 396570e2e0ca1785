"""What ``import sdk`` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sdk

HEAVY = ("numpy", "cv2", "onnxruntime", "onnx", "torch", "aiohttp", "rich", "av")


def test_importing_the_package_imports_nothing_heavy() -> None:
    report = f"import sys, sdk; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sdk.__all__)
def test_each_exported_name_is_there(name: str) -> None:
    assert getattr(sdk, name) is not None
    assert name in dir(sdk)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Purifer'"):
        sdk.Purifer  # noqa: B018


def test_a_purifier_alone_loads_no_video_reader() -> None:
    report = "import sys, sdk; sdk.Purifier; print('av' in sys.modules, 'sdk.sources.open' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
