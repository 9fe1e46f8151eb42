#!/usr/bin/env bash
# Builds the runtimes that tests and benchmarks compare with into .cache/peers:
# containerd with its shim and ctr, and runc. They validate the tests: what fails there is the test's fault.
set -euo pipefail
. "$(dirname "$0")/env.sh"
CONTAINERD=v2.4.2
RUNC=v1.5.2
key="$CONTAINERD $RUNC $(go version)"
fresh "$CACHE/peers.stamp" "$key" && exit
need /usr/include/seccomp.h:libseccomp-dev:"runc is built against libseccomp" pkg-config:pkg-config:"finds libseccomp" gcc:gcc:"runc needs cgo"
mkdir -p "$CACHE/peers"
export GOBIN=$CACHE/peers GOFLAGS=-trimpath
say "building containerd $CONTAINERD (once)"
c=github.com/containerd/containerd/v2/cmd
CGO_ENABLED=0 go install -ldflags '-s -w' $c/containerd@$CONTAINERD $c/containerd-shim-runc-v2@$CONTAINERD $c/ctr@$CONTAINERD
say "building runc $RUNC (once)"
CGO_ENABLED=1 go install -tags seccomp -ldflags '-s -w' github.com/opencontainers/runc@$RUNC
echo "$key" >"$CACHE/peers.stamp"
