"""Run as ``python -m trainer.cli``; importing ``sdk`` has taken the working directory off the module path."""

from trainer.cli import main

main()
