#!/usr/bin/env bash
# Runs the tests of test/e2e on a daemon that is not Berth, to test the tests:
#
#   hack/e2e.sh --peer containerd [-- go test flags]
#
# For Berth itself "go test ./..." in test/e2e is enough.
set -euo pipefail
. "$(dirname "$0")/env.sh"
. "$ROOT/hack/daemon.sh"
[ "${1:-}" = --peer ] || die "usage: hack/e2e.sh --peer containerd [-- go test flags]"
peer=$2; shift 2
[ "${1:-}" != -- ] || shift
if [ -z "${BERTH_IN_TESTNS:-}" ]; then
	"$ROOT/hack/tools.sh" client cni packages
	"$ROOT/hack/images.sh"
	"$ROOT/hack/peers.sh"
	exec "$ROOT/hack/testns.sh" "$0" --peer "$peer" -- "$@"
fi
work_up
trap 'pods_down; work_down' EXIT
registry_up
daemon_up "$peer"
cd "$ROOT/test/e2e"
BERTH_E2E_ENDPOINT=$ENDPOINT BERTH_E2E_LOGS=$WORK go test -count=1 "$@" ./core
