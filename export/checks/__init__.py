"""Gates that a bundle must pass: parity, accuracy of lower precisions, operators that TensorRT has."""
