#!/usr/bin/env bash
# Builds the program that makes and serves the test images, and has it make them, if that has not been done.
set -euo pipefail
. "$(dirname "$0")/env.sh"
need dpkg-deb:dpkg:"unpacks the packages test images are made of"
mkdir -p "$CACHE/bin"
CGO_ENABLED=0 go build -C "$ROOT/test/images" -trimpath -o "$CACHE/bin/images" .
CGO_ENABLED=0 go build -C "$ROOT" -trimpath -o "$CACHE/bin/testsum" ./hack/testsum
images build >/dev/null
