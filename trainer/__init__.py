"""Training, in PyTorch: models, losses, data and the loop, and the measurement of robustness."""

from sdk.host import telemetry

telemetry.disable()  # before any inference engine is imported
