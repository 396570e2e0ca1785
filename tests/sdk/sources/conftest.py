from __future__ import annotations

import pytest

from sdk.sources.video import pyav


@pytest.fixture(params=["pyav", "opencv"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test holds for both readers; its name."""
    if request.param == "opencv":
        monkeypatch.setattr(pyav, "av", None)
    return str(request.param)
