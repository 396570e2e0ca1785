"""Run as ``python -m export.cli``."""

from sdk.host.children import forget_working_directory

forget_working_directory()  # before anything else is imported

from export.cli import main  # noqa: E402

main()
