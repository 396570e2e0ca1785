"""The training loop: run, epochs, validation, exact resume."""
