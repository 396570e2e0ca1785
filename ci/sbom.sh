#!/usr/bin/env bash
# Write a bill of materials (CycloneDX JSON) of what the runtime depends on, from requirements.lock.
#
#   ci/sbom.sh OUT.json        needs cyclonedx-py: pip install cyclonedx-bom
set -euo pipefail
if [ $# -ne 1 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
programs=.venv/bin
command -v cyclonedx-py >/dev/null && programs=$(dirname "$(command -v cyclonedx-py)")
mkdir -p "$(dirname "$1")"
"$programs/cyclonedx-py" requirements requirements.lock --pyproject pyproject.toml --output-reproducible \
    --output-format JSON --output-file "$1"
