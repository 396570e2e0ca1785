"""Run as ``python -m sdk.cli``."""

from sdk.cli import main

main()
