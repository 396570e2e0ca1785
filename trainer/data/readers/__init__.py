"""Readers of published data sets in their own file formats."""
