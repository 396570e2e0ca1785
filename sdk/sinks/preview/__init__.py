"""A web page with the newest frame, and metrics for Prometheus: what ``--serve [HOST:]PORT`` starts.

    with Preview("8080", purifier.bundle) as sink:
        sink.write(frame, result)

It needs the extra ``[web]``. Importing this package does not.
"""

from sdk.sinks.preview.address import Address
from sdk.sinks.preview.sink import Preview

__all__ = ["Address", "Preview"]
