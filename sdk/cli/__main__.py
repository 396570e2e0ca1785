"""Run as ``python -m sdk.cli``; importing ``sdk`` has taken the working directory off the module path."""

from sdk.cli import main

main()
