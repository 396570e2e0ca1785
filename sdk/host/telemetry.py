"""Usage reports of dependencies, turned off: nothing that the SDK loads reports to its vendor.

ONNX Runtime's packages of 2026 report by default: on import they write a device id and a queue of events to
the user's cache and look up host names. They obey an environment variable if it is set before the import, so
each of the three packages calls ``disable`` when it is imported itself. OpenVINO reports through a package of
its own, which ``sdk.backends.openvino`` keeps from being imported.
"""

from __future__ import annotations

import os

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"}


def disable() -> None:
    """Set the variables, for this process and those that it starts."""
    os.environ.update(VARIABLES)
