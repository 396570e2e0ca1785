"""What a ladder is judged by and set beside: masking checks, baselines, randomness, suspicion, confidence."""
