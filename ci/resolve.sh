#!/usr/bin/env bash
# Prove by dry runs of pip that the runtime and its extras resolve for each Python and architecture; nothing is installed.
#
#   ci/resolve.sh [EXTRA ...]     default: all but 'dev', 'runtime' for the package without extras, and, with the
#                                 versions of constraints.txt, what 'make demo' and 'make test' install
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/resolve.py" "$@"
