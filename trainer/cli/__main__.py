"""Run as ``python -m trainer.cli``."""

from trainer.cli import main

main()
