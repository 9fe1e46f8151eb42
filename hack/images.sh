#!/usr/bin/env bash
# Builds our own test programs (images, testsum, leaks), and has the test images made, if that has not been done.
set -euo pipefail
. "$(dirname "$0")/env.sh"
need dpkg-deb:dpkg:"unpacks the packages test images are made of"
mkdir -p "$CACHE/bin"
CGO_ENABLED=0 go build -C "$ROOT/test/images" -trimpath -o "$CACHE/bin/images" .
CGO_ENABLED=0 go build -C "$ROOT" -trimpath -o "$CACHE/bin/testsum" ./hack/testsum
CGO_ENABLED=0 go build -C "$ROOT/test/e2e" -trimpath -o "$CACHE/bin/leaks" ./leaks
images build >/dev/null
