#!/usr/bin/env bash
# Build and prove a bundle's TensorRT engines; any CI can call it, on a host or inside one of ci/Dockerfile.*
#
#   ci/engines.sh key   BUNDLE TARGET [PRECISIONS]      print the key of a cache that keeps these engines
#   ci/engines.sh build BUNDLE TARGET OUT [PRECISIONS]  build or reuse them; reports go to the folder OUT
#
# TARGET is one of 'edge-export engines --help'; PRECISIONS are like fp32,fp16. Engines are kept in
# $XDG_CACHE_HOME/edge-purify. It fails where the TensorRT that TARGET names is missing, and where the
# self-test didn't run through it: a job that skips would look like one that passed.
set -euo pipefail

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

print_key() {
    edge-export engines "$1" --target "$2" ${3:+--precision "$3"} --key
}

build() {
    local bundle=$1 target=$2 out=$3 precisions=${4:-}
    mkdir -p "$out"
    edge-export engines "$bundle" --target "$target" ${precisions:+--precision "$precisions"} --json >"$out/engines.json"
    edge-export verify "$bundle" --json >"$out/verify.json"
    if [ "$target" = rtx ]; then
        echo "target rtx: built, and not run: that needs an RTX GPU" >"$out/not-run.txt"
    else
        edge-purify doctor --bundle "$bundle" --selftest --json >"$out/selftest.json"
        if ! grep -q '"name": "self-test tensorrt ' "$out/selftest.json"; then
            echo "ci/engines.sh: target $target: no engine was run through TensorRT, see $out/selftest.json" >&2
            exit 1
        fi
    fi
    echo "ci/engines.sh: target $target: $(grep -o '"engine":' "$out/engines.json" | wc -l) engines, reports in $out"
}

case "${1:-}:$#" in
key:3 | key:4) print_key "${@:2}" "" ;;
build:4 | build:5) build "${@:2}" ;;
*) usage ;;
esac
