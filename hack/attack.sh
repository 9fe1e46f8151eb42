#!/usr/bin/env bash
# Runs the attacks (test/attack) on berth-oci and other runtimes, side by side.
#
#   hack/attack.sh [--peer runc|crun|crun-1.8]... [--only] [--long] [--patience DURATION] [--run REGEXP] [--out DIR]
#
# Fails when an attack works on berth-oci; what works on a peer is in the table, and its reason in DIR/NAME.json. --only leaves
# berth-oci out. --long kills at every system call instead of some, and makes 10^5 containers a race (ATTACK_CREATES=N for
# another number). --patience is how long a command may take before it counts as hanging (default 60s): runtimes that hang
# often take hours otherwise. Everything runs in the jail (hack/testns.sh --read-only).
set -euo pipefail
. "$(dirname "$0")/env.sh"
peers=() first=berth-oci run=. out=$CACHE/attack
while [ $# -gt 0 ]; do
	case $1 in
	--peer) peers+=("$2"); shift ;;
	--only) first='' ;;
	--long) export ATTACK_LONG=1 ;;
	--patience) export ATTACK_PATIENCE=$2; shift ;;
	--run) run=$2; shift ;;
	--out) out=$2; shift ;;
	--inside) inside=1 ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
need_root
if [ -z "${inside:-}" ]; then
	make -s -C "$ROOT" build
	[ ${#peers[@]} = 0 ] || "$ROOT/hack/peers.sh" "${peers[@]}"
	mkdir -p "$out"
	cd "$ROOT"
	CGO_ENABLED=0 go test -c -o "$out/attack.test" ./test/attack
	reports=()
	for name in $first "${peers[@]}"; do
		say "== $name"
		"$ROOT/hack/testns.sh" "$0" --inside --peer "$name" --run "$run" --out "$out" >"$out/$name.json" || true
		reports+=("$name=$out/$name.json")
	done
	exec go run ./test/conform/compare "${reports[@]}"
fi

name=${peers[0]} f=/sys/fs/cgroup/unified/cgroup.controllers
case $name in
berth-oci) ;;
crun-1.8) # the program itself, and not the script that hides cgroup2's controllers from it (hack/peers.sh): attacks are on its file
	export RUNTIME=/usr/bin/crun
	[ -z "$(cat $f 2>/dev/null)" ] || mount --bind /dev/null $f ;;
*) export RUNTIME=$CACHE/peers/$name ;;
esac
cd "$ROOT/test/attack"
"$out/attack.test" -test.v=test2json -test.run "$run" -test.timeout 24h 2>"$out/$name.stderr" | go tool test2json -p attack
