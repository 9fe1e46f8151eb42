#!/usr/bin/env bash
# Runs the validation programs of github.com/opencontainers/runtime-tools on berth-oci, and ends with
# "N passed, N failed, N skipped". What is skipped is listed in test/ocitest/expected.txt with its reason.
#
#   hack/ocitest.sh [--peer runc|crun|crun-1.8]... [--only REGEXP] [--jobs N] [--released | --correct] [--out DIR]
#
# --peer runs another runtime beside it: one more column, and what all of them pass berth-oci must pass. --released leaves the
# suite's seccomp profile of 2018 alone, in which runc can't start (test/ocitest says more). --correct takes tmpfs's options off
# bind mounts. --out keeps what the programs said.
set -euo pipefail
. "$(dirname "$0")/env.sh"
args=() peers=() runtimes=("berth-oci=$ROOT/bin/berth-oci") out=$CACHE/ocitest
while [ $# -gt 0 ]; do
	case $1 in
	--peer) peers+=("$2") runtimes+=("$2=$CACHE/peers/$2"); shift ;;
	--only | --jobs) args+=("$1" "$2"); shift ;;
	--released | --correct) args+=("$1") ;;
	--out) out=$2; shift ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
need_root
need unshare:util-linux:"called by the suite" tar:tar:"called by the suite"
make -s -C "$ROOT" build
[ ${#peers[@]} = 0 ] || "$ROOT/hack/peers.sh" "${peers[@]}"
cd "$ROOT/test/ocitest"
export CGO_ENABLED=0 GOFLAGS=${GOFLAGS:-}
key=$(keyed go.mod go.sum)
if ! fresh "$CACHE/ocitest.stamp" "$key"; then
	say "building the validation programs of runtime-tools (once)"
	mkdir -p "$CACHE/ocitest.programs"
	go build -trimpath -ldflags '-s -w' -o "$CACHE/ocitest.programs/" tool
	install -m 644 "$(go list -m -f '{{.Dir}}' github.com/opencontainers/runtime-tools)/rootfs-$(go env GOARCH).tar.gz" "$CACHE/ocitest.programs/"
	echo "$key" >"$CACHE/ocitest.stamp"
fi
go build -trimpath -o "$CACHE/bin/ocitest" .
mkdir -p "$out"
# The names of the suite's cgroups are compiled in, and cgroups are the machine's: one run at a time.
exec 9>/run/berth-ocitest.lock
flock 9
# Bundles are made in /tmp, which must be executable and may not be left behind.
# In there, it is a tmpfs of its own; only the reports are written outside.
"$ROOT/hack/testns.sh" --read-only --write "$out" ${TOTALS:+--write "$(dirname "$TOTALS")"} ocitest ${TOTALS:+--totals "$TOTALS"} --expect expected.txt --programs "$CACHE/ocitest.programs" \
	--out "$out" "${args[@]}" "${runtimes[@]}"
