"""The machine: CPUs that the process may use, GPUs, the per-user cache."""
