"""Run as ``python -m export.cli``."""

from export.cli import main

main()
