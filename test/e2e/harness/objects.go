package harness

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The images tests use most.
const (
	Busybox = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
	Nginx   = "registry.k8s.io/e2e-test-images/nginx:1.14-2"
	// Configured has something in every field of its configuration that a runtime heeds; test/images/recipe.go says what.
	Configured = "registry.k8s.io/e2e-test-images/configured:1"
)

var serial atomic.Int64

// PodConfig is a small pod as kubelet would ask for it, with a name nobody else has.
func PodConfig(name, dir string) *rt.PodSandboxConfig {
	uid := fmt.Sprintf("%s-%d-%d", name, os.Getpid(), serial.Add(1))
	return &rt.PodSandboxConfig{
		Metadata:     &rt.PodSandboxMetadata{Name: name, Uid: uid, Namespace: "e2e"},
		Hostname:     name,
		LogDirectory: filepath.Join(dir, "logs", uid),
		DnsConfig:    &rt.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"e2e.svc"}, Options: []string{"ndots:5"}},
		Labels:       map[string]string{"name": name},
		Annotations:  map[string]string{"e2e": "yes"},
		Linux: &rt.LinuxPodSandboxConfig{
			CgroupParent:    cgroupParent(dir),
			SecurityContext: &rt.LinuxSandboxSecurityContext{NamespaceOptions: &rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER}},
		},
	}
}

// cgroupParent is what kubelet would have made; the harness removes it at the end.
func cgroupParent(dir string) string {
	if Driver() == "systemd" {
		// A dash in a slice's name would be a step down (systemd.slice(5)).
		return "/" + strings.ReplaceAll(filepath.Base(dir), "-", "_") + ".slice"
	}
	return "/" + filepath.Base(dir)
}

// Driver is who makes cgroups. Not systemd unless asked for: a daemon in a PID namespace of its own has nothing to say
// to a systemd outside of it. With BERTH_IN_TESTNS set as well the tests stay in the machine's namespaces.
func Driver() string { return cmp.Or(os.Getenv("BERTH_E2E_CGROUP_DRIVER"), "cgroupfs") }

// Command is a container of busybox that runs a shell script.
func Command(name, script string) *rt.ContainerConfig {
	return &rt.ContainerConfig{
		Metadata: &rt.ContainerMetadata{Name: name},
		Image:    &rt.ImageSpec{Image: Busybox},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
		Labels:   map[string]string{"name": name},
		Linux: &rt.LinuxContainerConfig{SecurityContext: &rt.LinuxContainerSecurityContext{
			NamespaceOptions: &rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER}}},
	}
}

// Pod is a running pod of a test. It is stopped and removed when the test ends.
type Pod struct {
	ID     string
	Config *rt.PodSandboxConfig
	node   *Node
	t      *testing.T
}

// Run runs a pod.
func (n *Node) Run(t *testing.T, cfg *rt.PodSandboxConfig) *Pod {
	t.Helper()
	return n.RunOn(t, cfg, "")
}

// RunOn runs a pod on a runtime handler.
func (n *Node) RunOn(t *testing.T, cfg *rt.PodSandboxConfig, handler string) *Pod {
	t.Helper()
	if err := os.MkdirAll(cfg.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	id, err := n.Runtime.RunPodSandbox(t.Context(), cfg, handler)
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}
	p := &Pod{ID: id, Config: cfg, node: n, t: t}
	t.Cleanup(p.down)
	return p
}

// down must work whatever the test did, also after it removed the pod itself.
func (p *Pod) down() {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := p.node.Runtime.StopPodSandbox(ctx, p.ID); err != nil && !strings.Contains(err.Error(), "NotFound") {
		p.t.Errorf("StopPodSandbox: %v", err)
	}
	if err := p.node.Runtime.RemovePodSandbox(ctx, p.ID); err != nil {
		p.t.Errorf("RemovePodSandbox: %v", err)
	}
	os.RemoveAll(p.Config.LogDirectory)
}

// Create pulls the container's image and creates it.
func (p *Pod) Create(cfg *rt.ContainerConfig) string {
	p.t.Helper()
	p.node.Pull(p.t, cfg.Image.Image)
	id, err := p.node.Runtime.CreateContainer(p.t.Context(), p.ID, cfg, p.Config)
	if err != nil {
		p.t.Fatalf("CreateContainer: %v", err)
	}
	return id
}

// Start creates and starts a container.
func (p *Pod) Start(cfg *rt.ContainerConfig) string {
	p.t.Helper()
	id := p.Create(cfg)
	if err := p.node.Runtime.StartContainer(p.t.Context(), id); err != nil {
		p.t.Fatalf("StartContainer: %v", err)
	}
	return id
}

// Pull pulls an image unless it is there.
func (n *Node) Pull(t *testing.T, ref string) {
	t.Helper()
	spec := &rt.ImageSpec{Image: ref}
	if s, err := n.Images.ImageStatus(t.Context(), spec, false); err == nil && s.Image != nil {
		return
	}
	if _, err := n.Images.PullImage(t.Context(), spec, nil, nil); err != nil {
		t.Fatalf("PullImage %s: %v", ref, err)
	}
}

// Status returns a container's status.
func (n *Node) Status(t *testing.T, id string) *rt.ContainerStatus {
	t.Helper()
	s, err := n.Runtime.ContainerStatus(t.Context(), id, false)
	if err != nil {
		t.Fatalf("ContainerStatus: %v", err)
	}
	return s.Status
}

// Exited waits for the container's end.
func (n *Node) Exited(t *testing.T, id string) *rt.ContainerStatus {
	t.Helper()
	var s *rt.ContainerStatus
	Eventually(t, Patience, "the container has exited", func() bool {
		s = n.Status(t, id)
		return s.State == rt.ContainerState_CONTAINER_EXITED
	})
	return s
}

// Exec runs a command in the container and returns its output; it must succeed.
func (n *Node) Exec(t *testing.T, id string, cmd ...string) string {
	t.Helper()
	out, errOut, err := n.Runtime.ExecSync(t.Context(), id, cmd, Patience)
	if err != nil {
		t.Fatalf("ExecSync %q: %v: %s%s", cmd, err, out, errOut)
	}
	return string(out)
}

// Says runs shell commands in the container and compares what each prints.
func (n *Node) Says(t *testing.T, id string, want map[string]string) {
	t.Helper()
	for what, w := range want {
		if got := n.Exec(t, id, "sh", "-c", what); got != w {
			t.Errorf("%s: %q, want %q", what, got, w)
		}
	}
}

// Log returns the contents of one stream of the container's log, joined.
func (p *Pod) Log(name, stream string) string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.Config.LogDirectory, name))
	if err != nil {
		p.t.Fatal(err)
	}
	var out bytes.Buffer
	for l := range bytes.Lines(b) {
		f := bytes.SplitN(l, []byte(" "), 4)
		if len(f) != 4 {
			p.t.Fatalf("log line %q has not four fields", l)
		}
		if _, err := time.Parse(time.RFC3339Nano, string(f[0])); err != nil {
			p.t.Fatalf("log line %q: %v", l, err)
		}
		if string(f[1]) != stream {
			continue
		}
		if string(f[2]) == "P" {
			f[3] = bytes.TrimSuffix(f[3], []byte("\n"))
		}
		out.Write(f[3])
	}
	return out.String()
}

// Eventually polls until the condition holds.
func Eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		if holds() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not so after %v: %s", within, what)
		}
	}
}
