#!/bin/sh
# Run the image hardened: read-only, no capabilities, no new privileges, one camera, no network.
# Usage: run.sh [IMAGE [OPTIONS…]], such as: run.sh edge-purify --camera 0 --json results.jsonl
# ENGINE=docker takes docker; CAMERA is the device; NETWORK=bridge lets a source on the network in.
set -eu
image=${1:-edge-purify}
[ $# -eq 0 ] || shift
exec "${ENGINE:-podman}" run --rm --init \
    --read-only --tmpfs /tmp:rw,nosuid,nodev,noexec,size=64m \
    --cap-drop ALL --security-opt no-new-privileges \
    --network "${NETWORK:-none}" \
    --device "${CAMERA:-/dev/video0}" --group-add video \
    --pids-limit 256 --memory 2g --ulimit nofile=1024 --ulimit core=0 \
    --volume edge-purify:/var/lib/edge-purify \
    --stop-timeout 90 \
    "$image" "$@"
