#!/usr/bin/env bash
# Tests under a real kubelet and control plane on this host (test/kubelet):
#
#   hack/kubelet.sh [--build] [-- go test flags]      --build only makes Kubernetes' programs
#
# Kubernetes' programs come from the Go module proxy and are linked into one (test/kubelet/kube), kept in the cache.
set -euo pipefail
. "$(dirname "$0")/env.sh"

kube() {
	local dir=$ROOT/test/kubelet/kube key version minor
	key=$(keyed "$dir/go.mod" "$dir/go.sum" "$dir/main.go")
	fresh "$CACHE/kube.stamp" "$key" && return
	say "building Kubernetes (once; minutes)"
	version=$(cd "$dir" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
	minor=${version#v1.}; minor=${minor%%.*}
	mkdir -p "$CACHE/kube"
	CGO_ENABLED=0 go build -C "$dir" -trimpath -o "$CACHE/kube/kube" -ldflags "-s -w
		-X k8s.io/component-base/version.gitVersion=$version
		-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor" .
	local name
	for name in kubelet kube-apiserver kube-controller-manager kube-scheduler kubectl etcd; do
		ln -sf kube "$CACHE/kube/$name"
	done
	echo "$key" >"$CACHE/kube.stamp"
}

need ip:iproute2:"makes the node's network" iptables:iptables:"called by kubelet" mount:mount:"called by kubelet" tar:tar:"called by kubectl cp"
kube
[ "${1:-}" != --build ] || exit 0
[ "${1:-}" != -- ] || shift
need_root
"$ROOT/hack/images.sh"
make -s -C "$ROOT" build
cd "$ROOT/test/kubelet"
BERTH_KUBELET=required CGO_ENABLED=0 "$ROOT/hack/testns.sh" go test -json -count=1 -timeout 20m -parallel 12 "$@" . | testsum -name kubelet
