// Package kubelet holds the tests of Berth under a real kubelet and control plane (package cluster). What a node's
// workloads need is tried here in kind: controllers, volumes, probes, hooks, security settings, kubectl, restarts.
//
// hack/kubelet.sh builds Kubernetes' programs and runs the tests.
package kubelet
