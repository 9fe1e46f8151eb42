#!/usr/bin/env bash
# Runs our own conformance tests (test/conform) on berth-oci and other runtimes, side by side.
#
#   hack/conform.sh [--peer runc|crun|crun-1.8]... [--run REGEXP] [--out DIR]
#
# Fails when berth-oci fails a test, or when a test that no peer passes is not named in test/conform/differences.txt.
set -euo pipefail
. "$(dirname "$0")/env.sh"
peers=() run=. out=$CACHE/conform
while [ $# -gt 0 ]; do
	case $1 in
	--peer) peers+=("$2"); shift ;;
	--run) run=$2; shift ;;
	--out) out=$2; shift ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
need_root
make -s -C "$ROOT" build
[ ${#peers[@]} = 0 ] || "$ROOT/hack/peers.sh" "${peers[@]}"
mkdir -p "$out"
export CGO_ENABLED=0
cd "$ROOT"
go test -c -o "$out/conform.test" ./test/conform
reports=()
for name in berth-oci "${peers[@]}"; do
	bin=$CACHE/peers/$name
	[ "$name" != berth-oci ] || bin=$ROOT/bin/berth-oci
	say "== $name"
	(cd test/conform && RUNTIME=$bin "$out/conform.test" -test.v=test2json -test.run "$run" -test.timeout 40m 2>"$out/$name.stderr" |
		go tool test2json -p conform) >"$out/$name.json" || true
	reports+=("$name=$out/$name.json")
done
go run ./test/conform/compare --differences test/conform/differences.txt "${reports[@]}"
