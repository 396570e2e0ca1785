"""Training, in PyTorch: models, losses, data and the loop, and the measurement of robustness."""
