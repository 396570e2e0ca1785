"""From a checkpoint to the bundle folder: ONNX graphs, golden outputs, model card, manifest."""
