#!/usr/bin/env bash
# Builds the runtimes that tests and benchmarks compare with into .cache/peers:
# containerd with its shim and ctr, runc, and a wrapper of Debian's crun. They validate the tests: what fails there is
# the test's fault.
set -euo pipefail
. "$(dirname "$0")/env.sh"
CONTAINERD=v2.4.2
RUNC=v1.5.2
need crun:crun:"another OCI runtime to compare with"
mkdir -p "$CACHE/peers"
# crun 1.8 refuses a host that has controllers on a cgroup2 beside those of cgroup v1, so it is shown none.
cat >"$CACHE/peers/crun" <<'EOF'
#!/bin/sh
if [ -n "$(cat /sys/fs/cgroup/unified/cgroup.controllers 2>/dev/null)" ]; then
	exec unshare --mount --propagation slave sh -c 'umount /sys/fs/cgroup/unified && exec crun "$@"' crun "$@"
fi
exec crun "$@"
EOF
chmod +x "$CACHE/peers/crun"
key="$CONTAINERD $RUNC $(go version)"
fresh "$CACHE/peers.stamp" "$key" && exit
need /usr/include/seccomp.h:libseccomp-dev:"runc is built against libseccomp" pkg-config:pkg-config:"finds libseccomp" gcc:gcc:"runc needs cgo"
export GOBIN=$CACHE/peers GOFLAGS=-trimpath
say "building containerd $CONTAINERD (once)"
c=github.com/containerd/containerd/v2/cmd
CGO_ENABLED=0 go install -ldflags '-s -w' $c/containerd@$CONTAINERD $c/containerd-shim-runc-v2@$CONTAINERD $c/ctr@$CONTAINERD
say "building runc $RUNC (once)"
CGO_ENABLED=1 go install -tags seccomp -ldflags '-s -w' github.com/opencontainers/runc@$RUNC
echo "$key" >"$CACHE/peers.stamp"
