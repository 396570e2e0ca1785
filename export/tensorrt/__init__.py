"""TensorRT engines: builds in a process of their own, target by target, into the plan store."""
