#!/usr/bin/env bash
# Write requirements.lock: the runtime's dependencies for every platform and Python, each with its hashes.
#
#   ci/lock.sh        needs uv; the versions are those of constraints.txt
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml --extra web --extra signing --universal --python-version 3.10 --generate-hashes \
    --constraint constraints.txt --no-header --no-annotate --quiet --output-file requirements.lock
sed -i '1i # What the runtime depends on, with [web] and [signing]; ci/lock.sh writes it. Install with pip install --require-hashes.' \
    requirements.lock
