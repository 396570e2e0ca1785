"""Triton Inference Server: a bundle as a model repository, each engine a model, and one that chains them."""
