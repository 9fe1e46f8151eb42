#!/usr/bin/env bash
# Times whole pod lives on Berth and, in the same run and turn by turn, on containerd with runc:
#
#   hack/bench.sh [--network builtin|reference] [--alone] [-- bench flags]
#
# Berth runs with its built-in network unless told otherwise; containerd always with the reference plugins. Or OCI runtimes by
# themselves, berth-oci, runc, Debian's crun and the newest one, through create, start, delete and exec:
#
#   hack/bench.sh oci [--alone] [-- bench flags]
set -euo pipefail
. "$(dirname "$0")/env.sh"
. "$ROOT/hack/daemon.sh"
network=builtin alone='' what=cri
[ "${1:-}" != oci ] || { what=oci; shift; }
while [ $# -gt 0 ]; do
	case $1 in
	--network) network=$2; shift ;;
	--alone) alone=1 ;;
	--) shift; break ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
if [ -z "${BERTH_IN_TESTNS:-}" ] && [ $what = oci ]; then
	need_root
	need /bin/busybox:busybox-static:"the payload" /usr/bin/time:time:"weighs the runtimes"
	make -s -C "$ROOT" build
	(cd "$ROOT" && CGO_ENABLED=0 go build -o "$CACHE/bin/bench-oci" ./hack/bench/oci)
	[ -n "$alone" ] || "$ROOT/hack/peers.sh" runc crun-1.8 crun-new
	exec "$ROOT/hack/testns.sh" "$0" oci ${alone:+--alone} -- "$@"
fi
if [ $what = oci ]; then
	# crun 1.8 refuses a host that has cgroup2 beside v1 controllers, so nobody gets to see it.
	! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
	runtimes=("berth-oci=$ROOT/bin/berth-oci")
	if [ -z "$alone" ]; then
		for program in "$CACHE/peers/runc" /usr/bin/crun "$CACHE/peers/crun-new"; do
			runtimes+=("$("$program" --version | awk 'NR == 1 { print $1 "-" $NF }')=$program")
		done
	fi
	work=$(mktemp -d)
	mount -t tmpfs -o mode=755 bench "$work"
	trap 'umount -l "$work"; rmdir "$work"' EXIT
	bench-oci -dir "$work" "$@" "${runtimes[@]}"
	exit
fi
if [ -z "${BERTH_IN_TESTNS:-}" ]; then
	need_root
	"$ROOT/hack/tools.sh" client cni packages
	"$ROOT/hack/images.sh"
	[ -n "$alone" ] || "$ROOT/hack/peers.sh"
	make -s -C "$ROOT" build
	(cd "$ROOT" && CGO_ENABLED=0 go build -o "$CACHE/bin/bench" ./hack/bench)
	exec "$ROOT/hack/testns.sh" "$0" --network "$network" ${alone:+--alone} -- "$@"
fi
work_up
top=$WORK
peer=
down() {
	WORK=$top/peer DAEMON_PID=$peer
	[ -z "$peer" ] || daemon_kill TERM
	WORK=$top DAEMON_PID=$ours
	work_down
}
registry_up
NETWORK=$network
daemon_up berth
ours=$DAEMON_PID
trap down EXIT
sockets=("berth=${ENDPOINT#unix://}")
if [ -z "$alone" ]; then
	mkdir -p "$top"/peer/{cni,root,state}
	ln -s "$top/certs.d" "$top/peer/certs.d"
	WORK=$top/peer
	daemon_up containerd
	peer=$DAEMON_PID
	sockets+=("containerd=${ENDPOINT#unix://}")
	WORK=$top
fi
bench "$@" "${sockets[@]}"
for pid in $(pgrep -x berth-monitor || true); do echo "monitor left: $pid"; done
