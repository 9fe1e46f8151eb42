#!/usr/bin/env bash
# Unit and integration tests under the race detector. Left out: test/house, which has nothing to race, and the packages
# whose children run Go code between clone and exec, where the detector's own calls are not allowed.
set -euo pipefail
. "$(dirname "$0")/env.sh"
need gcc:gcc:"the race detector needs cgo"
"$ROOT/hack/tools.sh" cni packages
"$ROOT/hack/images.sh"
cd "$ROOT"
packages=$(go list ./... | grep -v -e /test/house -e '/oci/launch' -e /sandbox/ns)
run=(env CGO_ENABLED=1 "BERTH_CNI_BIN=$CACHE/cni" "BERTH_CNI_BIN_DIR=$CACHE/cni" go test -race -json -count=1)
[ "$(id -u)" != 0 ] || run=("$ROOT/hack/testns.sh" "${run[@]}")
"${run[@]}" $packages | testsum -name race
