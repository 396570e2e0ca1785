#!/usr/bin/env bash
# Run ci/engines.sh inside the image 'edge-purify-engines', as this user and with this folder at /project.
#
#   DOCKER='--gpus all' ci/in-docker.sh build BUNDLE TARGET /project/reports
#
# $DOCKER holds the options that give the container its GPU: '--gpus all', on a Jetson '--runtime nvidia'.
set -euo pipefail

mkdir -p .engine-cache
mounts=(--volume "$PWD:/project" --volume "$PWD/.engine-cache:/cache")
release=${ROOT:-}/etc/nv_tegra_release # $ROOT is for tests
if [ -e "$release" ]; then # a Jetson says in two files what it is, and Docker hides the one in /proc
    tr -d '\0' <"${ROOT:-}/proc/device-tree/model" >.engine-cache/jetson-model
    mounts+=(--volume "$release:/etc/nv_tegra_release:ro")
    mounts+=(--volume "$PWD/.engine-cache/jetson-model:/etc/jetson-model:ro")
    mounts+=(--group-add video) # whose members alone may open a Jetson's GPU
fi
read -r -a gpu <<<"${DOCKER:-}"
exec docker run --rm --user "$(id -u):$(id -g)" "${gpu[@]}" "${mounts[@]}" edge-purify-engines "$@"
