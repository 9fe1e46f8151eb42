#!/usr/bin/env bash
# Builds the tools that tests and the demo use, at the versions test/tools/go.mod pins, into .cache:
#
#   hack/tools.sh [client] [critest] [lint] [cni] [packages]     (default: all)
#
#   client    bin/crictl                  drives a CRI runtime by hand
#   critest   bin/critest, bin/ginkgo     the CRI conformance suite and its parallel runner
#   lint      bin/staticcheck
#   cni       cni/{bridge,loopback,...}   the CNI project's reference plugins
#   packages  Debian packages that tests call as programs
#
# A tool that is already there at the right version costs nothing.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT/test/tools"
key=$(keyed go.mod go.sum)
export CGO_ENABLED=0 GOFLAGS=${GOFLAGS:-}

version() { go list -m -f '{{.Version}}' "$1"; }

# build GROUP COMMAND...: runs the commands unless the group is there at this key.
once() {
	local group=$1 stamp=$CACHE/tools.$1; shift
	fresh "$stamp" "$key" && return
	say "building $group (once)"
	mkdir -p "$CACHE/bin" "$CACHE/cni"
	"$@"
	echo "$key" >"$stamp"
}

client() {
	go build -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$(version sigs.k8s.io/cri-tools)" \
		-o "$CACHE/bin/crictl" sigs.k8s.io/cri-tools/cmd/crictl
}

# The suite is a test binary: "go install" can't make it.
critest() {
	go test -c -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$(version sigs.k8s.io/cri-tools)" \
		-o "$CACHE/bin/critest" sigs.k8s.io/cri-tools/cmd/critest
	go build -trimpath -o "$CACHE/bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
}

lint() { go build -trimpath -o "$CACHE/bin/staticcheck" honnef.co/go/tools/cmd/staticcheck; }

cni() {
	local p base=github.com/containernetworking/plugins/plugins
	go build -trimpath -ldflags '-s -w' -o "$CACHE/cni/" $base/main/{bridge,loopback,ptp} $base/ipam/host-local \
		$base/meta/{portmap,bandwidth,firewall,tuning}
}

packages() {
	need make:make:"builds Berth" ip:iproute2:"links and network namespaces, looked at by tests" \
		nft:nftables:"nftables rules, looked at by tests" \
		iptables:iptables:"called by the reference CNI plugins" \
		curl:curl:"fetches host ports in the demo" \
		ipcmk:util-linux:"called by critest" \
		newuidmap:uidmap:"maps subordinate ids for containers without root" \
		apparmor_parser:apparmor:"compiles the default profile, which needs no kernel with AppArmor" \
		cpio:cpio:"reads the virtual nodes' initramfs" \
		ps:procps:"called by berth-oci ps" \
		dpkg-deb:dpkg:"unpacks the packages test images are made of"
}

for group in ${*:-client critest lint cni packages}; do
	case $group in
	client | critest | lint | cni) once "$group" "$group" ;;
	packages) packages ;;
	*) die "unknown group $group" ;;
	esac
done
