#!/usr/bin/env bash
# Sends requests with everything in them that a request should not have to a real daemon, for a long time:
#
#   hack/fuzzcri.sh [DURATION [SEED]]        15m and a seed of the clock
#
# "make test" does the same for 20 s with a fixed seed. What fails is printed with its request.
set -euo pipefail
. "$(dirname "$0")/env.sh"
need_root
during=${1:-15m} seed=${2:-$(date +%s)}
"$ROOT/hack/tools.sh" client cni packages
"$ROOT/hack/images.sh"
make -s -C "$ROOT" build
say "seed $seed"
cd "$ROOT/test/e2e"
CGO_ENABLED=0 BERTH_CNI_BIN=$CACHE/cni go test -count=1 -timeout 24h -v ./fuzz -for "$during" -seed "$seed" -workers 3
