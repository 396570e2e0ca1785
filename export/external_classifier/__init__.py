"""A user's own ONNX classifier behind a bundle's purifiers."""
