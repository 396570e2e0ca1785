"""The ladder: rungs and their budgets, masking checks, statistics, stored batches."""
