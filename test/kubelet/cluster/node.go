package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	remote "k8s.io/cri-client/pkg"
)

// Endpoint is the runtime's socket.
func (c *Cluster) Endpoint() string { return "unix://" + filepath.Join(c.Dir, "state", "berth.sock") }

// registry serves the test images; the runtime finds it as a mirror of the registries they come from.
func (c *Cluster) registry() error {
	at := filepath.Join(c.Dir, "registry")
	args := []string{"serve", "--cache", c.Tool("images"), "--dir", filepath.Join(c.Dir, "certs.d"), "--addr-file", at}
	if more := c.Tool("kube/images"); exists(more) {
		args = append(args, "--also", more)
	}
	if err := c.launch("registry", c.Tool("bin/images"), args...); err != nil {
		return err
	}
	return Poll(context.Background(), time.Minute, func(context.Context) error { _, err := os.Stat(at); return err })
}

// runtime starts Berth. The handler beside the built-in one has the name that Kubernetes' node tests want, and runs the
// same program as if it were a foreign one.
func (c *Cluster) runtime() error {
	config := filepath.Join(c.Dir, "config.toml")
	handler := fmt.Sprintf("[handlers.test-handler]\npath = %q\n", filepath.Join(c.top, "bin/berth-oci"))
	if err := os.WriteFile(config, []byte(handler+os.Getenv("BERTH_KUBELET_CONFIG")), 0o644); err != nil {
		return err
	}
	if err := c.launch("berth", filepath.Join(c.top, "bin/berth"), "serve", "--config", config, "--log-level", "debug", "--root", filepath.Join(c.Dir, "root"),
		"--state", filepath.Join(c.Dir, "state"), "--listen", c.Endpoint(), "--cni-conf-dir", filepath.Join(c.Dir, "cni"),
		"--cni-bin-dir", c.Tool("cni"), "--registry-config", filepath.Join(c.Dir, "certs.d"), "--builtin-network"); err != nil {
		return err
	}
	ctx := context.Background()
	return Poll(ctx, time.Minute, func(ctx context.Context) error {
		var err error
		if c.Runtime, err = remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(c.Endpoint()).WithConnectionTimeout(time.Minute).Build(ctx); err != nil {
			return err
		}
		if c.Images, err = remote.NewRemoteImageServiceBuilder().WithEndpoint(c.Endpoint()).WithConnectionTimeout(time.Minute).Build(ctx); err != nil {
			return err
		}
		_, err = c.Runtime.Version(ctx, "")
		return err
	})
}

// kubeletConfig is what a node needs here: the machine has cgroup v1, swap, a disk that is nearly full by kubelet's
// measure, and no user but root. The cgroup driver is what the runtime says (CRI RuntimeConfig).
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: "0.0.0.0"
readOnlyPort: 10255
clusterDomain: cluster.local
containerRuntimeEndpoint: "ENDPOINT"
staticPodPath: "DIR/manifests"
volumePluginDir: "DIR/plugins"
cgroupRoot: "CGROUP"
failCgroupV1: false
failSwapOn: false
syncFrequency: 2s
fileCheckFrequency: 1s
nodeStatusUpdateFrequency: 2s
evictionHard: {memory.available: 50Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
maxPods: 200
enableServer: true
`

// kubelet starts the node's agent. BERTH_KUBELET_GATES=Name=true,... switches feature gates.
func (c *Cluster) kubelet() error {
	config := strings.NewReplacer("ENDPOINT", c.Endpoint(), "DIR", c.Dir, "CGROUP", c.cgroup).Replace(kubeletConfig)
	if gates := os.Getenv("BERTH_KUBELET_GATES"); gates != "" {
		config += "featureGates: {" + strings.ReplaceAll(gates, "=", ": ") + "}\n"
	}
	file := filepath.Join(c.Dir, "kubelet.yaml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	return c.launch("kubelet", c.kube("kubelet"), "--config="+file, "--root-dir="+filepath.Join(c.Dir, "kubelet"),
		"--cert-dir="+c.pki("kubelet"), "--hostname-override="+NodeName, "--node-ip="+NodeIP, "--kubeconfig="+c.Kubeconfig, "--v=2")
}

// Reconfigure starts kubelet again with a changed configuration. The function it returns brings back the old one.
func (c *Cluster) Reconfigure(change *strings.Replacer) (func() error, error) {
	file := filepath.Join(c.Dir, "kubelet.yaml")
	old, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	write := func(config string) error {
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			return err
		}
		return c.Restart("kubelet", syscall.SIGTERM)
	}
	return func() error { return write(string(old)) }, write(change.Replace(string(old)))
}

// Ready waits until the scheduler may use the node, and the default service account is there.
func (c *Cluster) Ready() error {
	return Poll(context.Background(), 3*time.Minute, func(ctx context.Context) error {
		n, err := c.Client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				return fmt.Errorf("node is not ready: %s", cond.Message)
			}
		}
		if len(n.Status.Conditions) == 0 || len(n.Spec.Taints) > 0 {
			return errors.New("node has no conditions yet, or taints")
		}
		_, err = c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}
