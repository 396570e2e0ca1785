#!/usr/bin/env bash
# Pin every action of the workflows by commit: owner/name@COMMIT # TAG. A maintainer runs it to update them.
#
#   ci/pin-actions.sh                        each action stays at the tag that its comment names
#   ci/pin-actions.sh actions/checkout@v5.0.0    this one moves to another tag
#
# Needs git and the network. Look at the change before committing it.
set -euo pipefail
cd "$(dirname "$0")/.."

commit_of() { # OWNER/NAME TAG; an annotated tag's commit is its peeled line
    local refs
    refs=$(git ls-remote "https://github.com/$1" "refs/tags/$2" "refs/tags/$2^{}")
    [ -n "$refs" ] || { echo "ci/pin-actions.sh: $1 has no tag $2" >&2; exit 1; }
    tail -n 1 <<<"$refs" | cut -f 1
}

pin() { # OWNER/NAME TAG
    local commit
    commit=$(commit_of "$1" "$2")
    sed -i -E "s|(uses: $1)@[^ ]+( # [^ ]+)?\$|\1@$commit # $2|" .github/workflows/*.yml
    echo "$1 $2 $commit"
}

if [ $# -gt 0 ]; then
    for action in "$@"; do pin "${action%@*}" "${action#*@}"; done
else
    grep -hoE 'uses: [^ ]+@[0-9a-f]{40} # [^ ]+' .github/workflows/*.yml | sort -u |
        while read -r _ action _ tag; do pin "${action%@*}" "$tag"; done
fi
