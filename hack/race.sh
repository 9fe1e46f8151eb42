#!/usr/bin/env bash
# Unit and integration tests under the race detector. Left out: test/house, which has nothing to race; test/attack and
# test/conform, which drive programs that are built without it; the packages
# whose children run Go code between clone and exec, where the detector's own calls are not allowed; and those whose
# child drops privileges on all its threads, which a program with cgo can't do (syscall.AllThreadsSyscall).
set -euo pipefail
. "$(dirname "$0")/env.sh"
need gcc:gcc:"the race detector needs cgo"
"$ROOT/hack/tools.sh" cni packages
"$ROOT/hack/images.sh"
cd "$ROOT"
packages=$(go list ./... | grep -v -e /test/house -e /test/attack -e /test/conform -e /test/jail -e /oci/launch -e /cmd/berth-oci -e /sandbox/ns -e '/image$' -e /image/layer)
run=(env CGO_ENABLED=1 "BERTH_CNI_BIN=$CACHE/cni" "BERTH_CNI_BIN_DIR=$CACHE/cni" go test -race -json -count=1)
[ "$(id -u)" != 0 ] || run=("$ROOT/hack/testns.sh" "${run[@]}")
"${run[@]}" $packages | testsum -name race
