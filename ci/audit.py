"""Look the runtime's dependencies up in an advisory database: those of requirements.lock.

    python ci/audit.py

Exit codes: 0 where nothing is known against them or, said so, the database can't be reached; 1 otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE = ("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json")
UNREACHABLE = ("ConnectionError", "Failed to connect", "Max retries exceeded", "timed out", "ServiceError")


def main() -> int:
    """Run pip-audit and say what it found."""
    line = [sys.executable, "-m", "pip_audit", "--requirement", "requirements.lock", *LINE]
    audited = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if not audited.stdout.strip():
        if any(word in audited.stderr for word in UNREACHABLE):
            return _skipped("no connection")
        print(audited.stderr, file=sys.stderr)
        return 1
    return verdict(json.loads(audited.stdout)["dependencies"])


def verdict(dependencies: list[dict[str, object]]) -> int:
    """The exit code for what pip-audit says of each dependency."""
    unknown = [str(dependency["name"]) for dependency in dependencies if "skip_reason" in dependency]
    if len(unknown) == len(dependencies):
        return _skipped("it knows none of the packages")
    found = [dependency for dependency in dependencies if dependency.get("vulns")]
    for dependency in found:
        print(json.dumps(dependency))
    if unknown:
        print(f"audit: not in the database: {', '.join(unknown)}")
    print(f"audit: {len(dependencies) - len(unknown)} packages, {len(found)} with known vulnerabilities")
    return 1 if found else 0


def _skipped(reason: str) -> int:
    print(f"audit: skipped: the advisory database can't be reached here ({reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
