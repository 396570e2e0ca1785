"""What is attacked and what judges: the twin, its surrogates, the INT8 twin, baselines, engines."""
