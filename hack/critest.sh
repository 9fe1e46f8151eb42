#!/usr/bin/env bash
# Runs the CRI conformance suite against a daemon started for it, and ends with "N passed, N failed, N skipped".
#
#   hack/critest.sh [--all] [--focus REGEXP] [--skip REGEXP] [--parallel N] [--peer containerd [--runtime PATH]]
#                   [--network reference] [--handler runc|crun] [--out DIR] [-- critest flags]
#
# Default: the specs marked [Conformance], on Berth with its built-in network. --peer runs another runtime: what fails
# there too is not ours. --runtime has containerd call that OCI runtime in place of runc. --handler runs every pod on a
# foreign OCI runtime. --out keeps the report, the suite's output and the daemon's log.
set -euo pipefail
. "$(dirname "$0")/env.sh"
. "$ROOT/hack/daemon.sh"
focus='\[Conformance\]' skip='' parallel=1 daemon=berth handler='' out=$CACHE/critest
while [ $# -gt 0 ]; do
	case $1 in
	--all) focus='' ;;
	--focus) focus=$2; shift ;;
	--skip) skip=$2; shift ;;
	--parallel) parallel=$2; shift ;;
	--peer) daemon=$2; shift ;;
	--runtime) OCI=$(realpath "$2"); shift ;;
	--network) NETWORK=$2; shift ;;
	--out) out=$2; shift ;;
	--handler) handler=$2; shift ;;
	--inside) inside=1 ;;
	--) shift; break ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
if [ -z "${inside:-}" ]; then
	need_root
	"$ROOT/hack/tools.sh" client critest cni packages
	"$ROOT/hack/images.sh"
	if [ "$daemon" = berth ] || [ -n "${OCI:-}" ]; then make -s -C "$ROOT" build; fi
	[ "$daemon" = berth ] || "$ROOT/hack/peers.sh" containerd runc
	export OCI=${OCI:-}
	[ -z "$handler" ] || "$ROOT/hack/peers.sh" "$handler"
	exec "$ROOT/hack/testns.sh" "$0" --inside --focus "$focus" --skip "$skip" --parallel "$parallel" --peer "$daemon" --handler "$handler" \
		--network "${NETWORK:-builtin}" --out "$out" -- "$@"
fi

mkdir -p "$out"
rm -f "$out"/*
work_up
trap 'pods_down; cp "$WORK/daemon.log" "$out/" 2>/dev/null; work_down' EXIT
registry_up

# One spec pulls an image by a digest that is compiled into the suite, of an image only its own registry has.
# The copy of the suite that runs here has the digest of our image in that place instead: same spec, same checks.
theirs=9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf
ours=$(images digest gcr.io/k8s-staging-cri-tools/test-image-digest:latest)
sed "s/$theirs/${ours#sha256:}/g" "$CACHE/bin/critest" >"$WORK/critest"
chmod +x "$WORK/critest"

HANDLERS=$handler daemon_up "$daemon"
args=(-runtime-endpoint "$ENDPOINT" -image-endpoint "$ENDPOINT" -ginkgo.junit-report "$out/junit.xml" -ginkgo.no-color)
[ -z "$focus" ] || args+=(-ginkgo.focus "$focus")
[ -z "$skip" ] || args+=(-ginkgo.skip "$skip")
[ -z "$handler" ] || args+=(-runtime-handler "$handler")
[ "$parallel" = 1 ] || args+=(-parallel "$parallel")
cd "$WORK"
rc=0
TMPDIR=$WORK "$WORK/critest" "${args[@]}" "$@" >"$out/output.txt" 2>&1 || rc=$?
testsum -junit -name "critest${handler:+ on $handler}" ${TOTALS:+-totals "$TOTALS"} "$out/junit.xml" || rc=1
exit $rc
