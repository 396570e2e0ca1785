"""Run as ``python -m export.cli``; importing ``sdk`` has taken the working directory off the module path."""

from export.cli import main

main()
