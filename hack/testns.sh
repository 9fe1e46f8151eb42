#!/usr/bin/env bash
# Runs a command in mount, network and PID namespaces of its own:
#
#   hack/testns.sh COMMAND [ARG]...
#
# so that a test daemon's rules, links, mounts and processes can't touch the machine's, and go with the namespaces
# whatever happens. Inside, / is a shared mount (propagation is tested), lo is up, /run/netns and /var/lib/cni are empty.
# Cgroups are the machine's: what a test leaves there is its fault and is reported by the leak check.
set -euo pipefail
. "$(dirname "$0")/env.sh"
if [ "${BERTH_TESTNS:-}" != inside ]; then
	need_root
	need unshare:util-linux:"makes namespaces" ip:iproute2:"brings lo up"
	mkdir -p /run/netns /var/lib/cni
	BERTH_TESTNS=inside exec unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi
unset BERTH_TESTNS
export BERTH_IN_TESTNS=1
mount --make-rshared /
mount -t tmpfs -o mode=755 netns /run/netns
mount -t tmpfs -o mode=755 cni /var/lib/cni
ip link set lo up
# This shell is PID 1 of the namespace and reaps what is orphaned in it, so it must not exec.
rc=0
"$@" || rc=$?
exit $rc
