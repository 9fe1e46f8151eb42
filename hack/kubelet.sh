#!/usr/bin/env bash
# Tests under a real kubelet and control plane on this host (test/kubelet):
#
#   hack/kubelet.sh [--build] [-- go test flags]      --build only makes Kubernetes' programs
#   hack/kubelet.sh --conformance [LABELS [FOCUS]]    Kubernetes' own node tests; by default all NodeConformance specs that may
#                                                     run beside others
#
# Kubernetes' programs come from the Go module proxy and are linked into one (test/kubelet/kube), kept in the cache.
set -euo pipefail
. "$(dirname "$0")/env.sh"

KUBE=$ROOT/test/kubelet/kube

# version: linker flags, so that Kubernetes says which release it is.
version() {
	local v minor
	v=$(go list -C "$KUBE" -m -f '{{.Version}}' k8s.io/kubernetes)
	minor=${v#v1.}; minor=${minor%%.*}
	echo "-s -w -X k8s.io/component-base/version.gitVersion=$v -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor"
}

kube() {
	local key
	key=$(keyed "$KUBE/go.mod" "$KUBE/go.sum" "$KUBE/main.go")
	fresh "$CACHE/kube.stamp" "$key" && return
	say "building Kubernetes (once; minutes)"
	mkdir -p "$CACHE/kube"
	CGO_ENABLED=0 go build -C "$KUBE" -trimpath -o "$CACHE/kube/kube" -ldflags "$(version)" .
	local name
	for name in kubelet kube-apiserver kube-controller-manager kube-scheduler kubectl etcd; do
		ln -sf kube "$CACHE/kube/$name"
	done
	echo "$key" >"$CACHE/kube.stamp"
}

# node_tests: Kubernetes' own, the program that runs them side by side, and the images they pull.
node_tests() {
	local key
	key=$(keyed "$KUBE/go.mod" "$KUBE/go.sum")
	if ! fresh "$CACHE/kube/e2e_node.stamp" "$key"; then
		say "building Kubernetes' node tests (once; minutes)"
		CGO_ENABLED=0 go test -C "$KUBE" -vet=off -c -trimpath -ldflags "$(version)" -o "$CACHE/kube/e2e_node.test" k8s.io/kubernetes/test/e2e_node
		CGO_ENABLED=0 go build -C "$KUBE" -trimpath -ldflags '-s -w' -o "$CACHE/kube/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
		echo "$key" >"$CACHE/kube/e2e_node.stamp"
	fi
	"$ROOT/hack/nodeimages.sh"
}

need ip:iproute2:"makes the node's network" iptables:iptables:"called by kubelet" mount:mount:"called by kubelet" tar:tar:"called by kubectl cp"
kube
[ "${1:-}" != --build ] || exit 0
need_root
"$ROOT/hack/images.sh"
if [ "${1:-}" = --conformance ]; then
	node_tests
	export BERTH_NODE_E2E=${2:-NodeConformance && !Serial && !Slow && !Flaky && !Disruptive} BERTH_NODE_E2E_FOCUS=${3:-}
	set -- -run TestNodeConformance -timeout 4h -v
fi
[ "${1:-}" != -- ] || shift
make -s -C "$ROOT" build
cd "$ROOT/test/kubelet"
BERTH_KUBELET=required CGO_ENABLED=0 "$ROOT/hack/testns.sh" go test -json -count=1 -timeout 20m -parallel 12 "$@" . | testsum -name kubelet ${TOTALS:+-totals "$TOTALS"}
