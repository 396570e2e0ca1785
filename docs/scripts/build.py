"""Build the documentation's site into site/, and fail on any warning.

    python docs/scripts/build.py

Zensical's strict mode fails on broken links. Warnings that it only prints, such as a docstring that names a
parameter the function doesn't have, are failures here too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "site"
WARNINGS = ("griffe:", "mkdocstrings:", "mkdocs_autorefs:", "WARNING", "Warning")


def main() -> int:
    """Build; the exit code is 1 where anything was complained about."""
    shutil.rmtree(SITE, ignore_errors=True)
    line = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    said = (built.stdout + built.stderr).splitlines()
    print("\n".join(said))
    warnings = [line for line in said if line.strip().startswith(WARNINGS)]
    if built.returncode or warnings:
        print(f"docs: failed with {len(warnings)} warnings", file=sys.stderr)
        return 1
    shutil.rmtree(SITE / "scripts", ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
