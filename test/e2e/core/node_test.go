package core

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// A host port answers on 127.0.0.1 while the pod runs, and no longer.
func TestHostPort(t *testing.T) {
	n := harness.Get(t)
	const port = 28080
	pod := harness.PodConfig("hostport", n.Dir)
	pod.PortMappings = []*rt.PortMapping{{Protocol: rt.Protocol_TCP, ContainerPort: 80, HostPort: port}}
	p := n.Run(t, pod)
	cfg := harness.Command("web", "")
	cfg.Image.Image, cfg.Command = harness.Nginx, nil
	p.Start(cfg)
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answers := func() bool {
		r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		return err == nil && strings.Contains(string(body), "nginx")
	}
	harness.Eventually(t, harness.Patience, "the host port answers", answers)
	if err := n.Runtime.StopPodSandbox(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	if answers() {
		t.Error("the host port of a stopped pod answers")
	}
}

// A caller that asks again for what another has asked for gets the same: kubelet's retry after a timeout is one.
func TestJoin(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("join-container", n.Dir))
	n.Pull(t, harness.Busybox)
	pod := harness.PodConfig("join", n.Dir)
	same(t, "RunPodSandbox", func() (string, error) { return n.Runtime.RunPodSandbox(t.Context(), pod, "") })
	same(t, "CreateContainer", func() (string, error) {
		return n.Runtime.CreateContainer(t.Context(), p.ID, harness.Command("one", "sleep 1000"), p.Config)
	})
	same(t, "PullImage", func() (string, error) {
		return n.Images.PullImage(t.Context(), &rt.ImageSpec{Image: harness.Nginx}, nil, nil)
	})
	list, err := n.Runtime.ListPodSandbox(t.Context(), &rt.PodSandboxFilter{LabelSelector: map[string]string{"name": "join"}})
	if err != nil || len(list) != 1 {
		t.Errorf("%d pods of one name, %v", len(list), err)
	}
	for _, l := range list {
		if err := n.Runtime.RemovePodSandbox(t.Context(), l.Id); err != nil {
			t.Error(err)
		}
	}
}

func same(t *testing.T, what string, call func() (string, error)) {
	t.Helper()
	ids, wait := make([]string, 8), sync.WaitGroup{}
	for i := range ids {
		wait.Go(func() {
			var err error
			if ids[i], err = call(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	wait.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("%s asked for by many at once: ids differ: %.13s, %.13s", what, id, ids[0])
		}
	}
}

// Pods share what they are told to share and nothing else.
func TestNamespaces(t *testing.T) {
	n := harness.Get(t)
	pod := harness.PodConfig("shared", n.Dir)
	pod.Linux.SecurityContext.NamespaceOptions.Pid = rt.NamespaceMode_POD
	pod.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "20000 30000", "kernel.shm_rmid_forced": "1"}
	p := n.Run(t, pod)
	start := func(name string) string {
		cfg := harness.Command(name, "sleep 1000")
		cfg.Linux.SecurityContext.NamespaceOptions.Pid = rt.NamespaceMode_POD
		return p.Start(cfg)
	}
	a, b := start("a"), start("b")
	other := n.Run(t, harness.PodConfig("alone", n.Dir)).Start(harness.Command("c", "sleep 1000"))
	for _, ns := range []string{"net", "ipc", "uts", "pid"} {
		in := func(id string) string { return n.Exec(t, id, "readlink", "/proc/self/ns/"+ns) }
		if in(a) != in(b) {
			t.Errorf("containers of a pod have different %s namespaces", ns)
		}
		if in(a) == in(other) {
			t.Errorf("two pods share a %s namespace", ns)
		}
	}
	if n.Exec(t, a, "readlink", "/proc/self/ns/mnt") == n.Exec(t, b, "readlink", "/proc/self/ns/mnt") {
		t.Error("two containers share a mount namespace")
	}
	if got := n.Exec(t, b, "cat", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/kernel/shm_rmid_forced"); strings.Join(strings.Fields(got), " ") != "20000 30000 1" {
		t.Errorf("sysctls: %q", got)
	}
}
