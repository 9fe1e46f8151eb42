package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// What status says of a pod is what was asked for, byte for byte.
func TestPodStatusEchoes(t *testing.T) {
	n := harness.Get(t)
	cfg := harness.PodConfig("echo", n.Dir)
	cfg.Labels = map[string]string{"io.kubernetes.pod.name": "échø", "empty": ""}
	cfg.Annotations = map[string]string{"long": strings.Repeat("ä\n", 2000), "json": `{"a":"<&>"}`}
	cfg.Linux.SecurityContext.NamespaceOptions = &rt.NamespaceOption{Network: rt.NamespaceMode_NODE, Pid: rt.NamespaceMode_CONTAINER, Ipc: rt.NamespaceMode_NODE}
	cfg.Hostname = ""
	p := n.Run(t, cfg)
	s, err := n.Runtime.PodSandboxStatus(t.Context(), p.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	o := s.Status.GetLinux().GetNamespaces().GetOptions()
	if o.GetNetwork() != rt.NamespaceMode_NODE || o.GetPid() != rt.NamespaceMode_CONTAINER || o.GetIpc() != rt.NamespaceMode_NODE {
		t.Errorf("namespace options %v", o)
	}
	for k, v := range cfg.Annotations {
		if s.Status.Annotations[k] != v {
			t.Errorf("annotation %s is not what was sent", k)
		}
	}
	if len(s.Status.Labels) != 2 || s.Status.Labels["io.kubernetes.pod.name"] != "échø" || len(s.Status.Annotations) != 2 {
		t.Errorf("labels %q, %d annotations", s.Status.Labels, len(s.Status.Annotations))
	}
	if s.Status.Network.GetIp() != "" {
		t.Errorf("a pod in the host's network has address %s", s.Status.Network.Ip)
	}
}

// A missing object is NotFound in every method that answers for one, and in those alone.
func TestNotFound(t *testing.T) {
	n := harness.Get(t)
	id := strings.Repeat("ab", 32)
	ctx := t.Context()
	for what, err := range map[string]error{
		"PodSandboxStatus":   func() error { _, err := n.Runtime.PodSandboxStatus(ctx, id, false); return err }(),
		"ContainerStatus":    func() error { _, err := n.Runtime.ContainerStatus(ctx, id, false); return err }(),
		"PodSandboxStats":    func() error { _, err := n.Runtime.PodSandboxStats(ctx, id); return err }(),
		"ContainerStats":     func() error { _, err := n.Runtime.ContainerStats(ctx, id); return err }(),
		"ReopenContainerLog": n.Runtime.ReopenContainerLog(ctx, id),
		"StartContainer":     n.Runtime.StartContainer(ctx, id),
	} {
		if err == nil || !strings.Contains(err.Error(), "NotFound") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"StopPodSandbox": n.Runtime.StopPodSandbox(ctx, id), "RemovePodSandbox": n.Runtime.RemovePodSandbox(ctx, id),
		"StopContainer": n.Runtime.StopContainer(ctx, id, 1), "RemoveContainer": n.Runtime.RemoveContainer(ctx, id),
	} {
		if err != nil {
			t.Errorf("%s of what is not there: %v", what, err)
		}
	}
}

func TestFilters(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("filter", n.Dir))
	id := p.Start(harness.Command("c", "sleep 1000"))
	ready := &rt.PodSandboxStateValue{State: rt.PodSandboxState_SANDBOX_READY}
	for what, c := range map[string]struct {
		f    *rt.PodSandboxFilter
		want int
	}{
		"prefix":            {&rt.PodSandboxFilter{Id: p.ID[:13]}, 1},
		"id and state":      {&rt.PodSandboxFilter{Id: p.ID, State: ready}, 1},
		"id, other state":   {&rt.PodSandboxFilter{Id: p.ID, State: &rt.PodSandboxStateValue{State: rt.PodSandboxState_SANDBOX_NOTREADY}}, 0},
		"id, other label":   {&rt.PodSandboxFilter{Id: p.ID, LabelSelector: map[string]string{"name": "x"}}, 0},
		"label is a prefix": {&rt.PodSandboxFilter{LabelSelector: map[string]string{"name": "filt"}}, 0},
		"label":             {&rt.PodSandboxFilter{LabelSelector: map[string]string{"name": "filter"}}, 1},
	} {
		if l, err := n.Runtime.ListPodSandbox(t.Context(), c.f); err != nil || len(l) != c.want {
			t.Errorf("pods by %s: %d, %v", what, len(l), err)
		}
	}
	for what, c := range map[string]struct {
		f    *rt.ContainerFilter
		want int
	}{
		"prefix":           {&rt.ContainerFilter{Id: id[:13]}, 1},
		"pod and label":    {&rt.ContainerFilter{PodSandboxId: p.ID, LabelSelector: map[string]string{"name": "c"}}, 1},
		"pod, other state": {&rt.ContainerFilter{PodSandboxId: p.ID, State: &rt.ContainerStateValue{State: rt.ContainerState_CONTAINER_EXITED}}, 0},
		"id, other pod":    {&rt.ContainerFilter{Id: id, PodSandboxId: strings.Repeat("0", 64)}, 0},
	} {
		if l, err := n.Runtime.ListContainers(t.Context(), c.f); err != nil || len(l) != c.want {
			t.Errorf("containers by %s: %d, %v", what, len(l), err)
		}
	}
}

// Lists in pieces say what lists in one say, and end.
func TestStreamedLists(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("streams", n.Dir))
	id := p.Start(harness.Command("c", "sleep 1000"))
	ctx := t.Context()
	pods, err := n.Raw.StreamPodSandboxes(ctx, &rt.StreamPodSandboxesRequest{})
	has(t, "StreamPodSandboxes", p.ID, err, func() ([]string, error) {
		m, err := pods.Recv()
		return ids(m.GetPodSandboxes(), (*rt.PodSandbox).GetId), err
	})
	ctrs, err := n.Raw.StreamContainers(ctx, &rt.StreamContainersRequest{})
	has(t, "StreamContainers", id, err, func() ([]string, error) {
		m, err := ctrs.Recv()
		return ids(m.GetContainers(), (*rt.Container).GetId), err
	})
	stats, err := n.Raw.StreamContainerStats(ctx, &rt.StreamContainerStatsRequest{})
	has(t, "StreamContainerStats", id, err, func() ([]string, error) {
		m, err := stats.Recv()
		return ids(m.GetContainerStats(), func(s *rt.ContainerStats) string { return s.GetAttributes().GetId() }), err
	})
	podStats, err := n.Raw.StreamPodSandboxStats(ctx, &rt.StreamPodSandboxStatsRequest{})
	has(t, "StreamPodSandboxStats", p.ID, err, func() ([]string, error) {
		m, err := podStats.Recv()
		return ids(m.GetPodSandboxStats(), func(s *rt.PodSandboxStats) string { return s.GetAttributes().GetId() }), err
	})
	status, err := n.Images.ImageStatus(ctx, &rt.ImageSpec{Image: harness.Busybox}, false)
	if err != nil {
		t.Fatal(err)
	}
	images, err := n.RawImages.StreamImages(ctx, &rt.StreamImagesRequest{})
	has(t, "StreamImages", status.Image.Id, err, func() ([]string, error) {
		m, err := images.Recv()
		return ids(m.GetImages(), (*rt.Image).GetId), err
	})
}

func ids[T any](list []T, id func(T) string) []string {
	var out []string
	for _, x := range list {
		out = append(out, id(x))
	}
	return out
}

func has(t *testing.T, what, id string, err error, recv func() ([]string, error)) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	found := false
	for range 100 {
		list, err := recv()
		if err != nil {
			if err.Error() != "EOF" || !found {
				t.Errorf("%s: %v, found %v", what, err, found)
			}
			return
		}
		found = found || slices.Contains(list, id)
	}
	t.Errorf("%s does not end", what)
}

// Every step of a life is told, with the statuses of that moment, in order, to each who listens.
func TestEvents(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	var mu sync.Mutex
	heard := make([][]*rt.ContainerEventResponse, 2)
	for i := range heard {
		stream, err := n.Raw.GetContainerEvents(t.Context(), &rt.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil { // comes when the daemon has begun to listen
			t.Fatal(err)
		}
		// ends with the test's context.
		go func() {
			for {
				e, err := stream.Recv()
				if err != nil {
					return
				}
				mu.Lock()
				heard[i] = append(heard[i], e)
				mu.Unlock()
			}
		}()
	}
	p := n.Run(t, harness.PodConfig("events", n.Dir))
	id := p.Start(harness.Command("c", "exit 3"))
	n.Exited(t, id)
	ctx := t.Context()
	for _, err := range []error{n.Runtime.RemoveContainer(ctx, id), n.Runtime.StopPodSandbox(ctx, p.ID), n.Runtime.RemovePodSandbox(ctx, p.ID)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	const want = "pod CREATED, pod STARTED, c CREATED, c STARTED, c STOPPED, c DELETED, pod STOPPED, pod DELETED"
	for i := range heard {
		var got string
		harness.Eventually(t, harness.Patience, "all events are heard", func() bool {
			mu.Lock()
			defer mu.Unlock()
			var all []string
			for _, e := range heard[i] {
				what := map[string]string{p.ID: "pod", id: "c"}[e.ContainerId]
				kind := strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
				all = append(all, what+" "+kind)
			}
			got = strings.Join(all, ", ")
			return got == want || len(all) > 8
		})
		if got != want {
			t.Errorf("listener %d heard %s", i, got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	last := int64(0)
	for _, e := range heard[0] {
		if e.PodSandboxStatus.GetMetadata().GetUid() != p.Config.Metadata.Uid || e.CreatedAt < last {
			t.Errorf("event %v: status %v, time %d after %d", e.ContainerEventType, e.PodSandboxStatus, e.CreatedAt, last)
		}
		last = e.CreatedAt
		if e.ContainerId == id && e.ContainerEventType == rt.ContainerEventType_CONTAINER_STOPPED_EVENT {
			if s := e.ContainersStatuses; len(s) != 1 || s[0].ExitCode != 3 || s[0].FinishedAt == 0 || s[0].Reason != "Error" {
				t.Errorf("statuses when it stopped: %v", s)
			}
		}
	}
}

// What a pod's containers see of the node and of each other.
func TestPodFiles(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("files", n.Dir))
	a, b := p.Start(harness.Command("a", "sleep 1000")), p.Start(harness.Command("b", "sleep 1000"))
	n.Says(t, a, map[string]string{
		"hostname; cat /etc/hostname; echo $HOSTNAME":                        "files\nfiles\nfiles\n",
		"cat /etc/resolv.conf":                                               "search e2e.svc\nnameserver 10.0.0.10\noptions ndots:5\n",
		"stat -c %a /dev/shm; df -k /dev/shm | tail -n 1 | awk '{print $2}'": "1777\n65536\n",
		"test -s /etc/hosts && echo hosts":                                   "hosts\n",
	})
	n.Exec(t, a, "sh", "-c", "echo shared >/dev/shm/x")
	if got := n.Exec(t, b, "cat", "/dev/shm/x"); got != "shared\n" {
		t.Errorf("/dev/shm of the pod: %q", got)
	}
	empty := harness.PodConfig("nodns", n.Dir)
	empty.DnsConfig = nil
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Exec(t, n.Run(t, empty).Start(harness.Command("c", "sleep 1000")), "cat", "/etc/resolv.conf"); got != string(host) {
		t.Errorf("resolv.conf without a DNS config: %q, the host's is %q", got, host)
	}
}

// Mounts: parents before children whatever the order, the last of two, a missing host path, and one in /dev.
func TestMounts(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("mounts", n.Dir))
	dir := filepath.Join(n.Dir, "mounts")
	for _, d := range []string{"outer", "inner"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	defer os.RemoveAll(dir)
	for f, s := range map[string]string{"outer/o": "outer", "inner/i": "inner", "log": "", "hosts": "mine"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(s), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	cfg := harness.Command("c", "sleep 1000")
	mount := func(at, from string) *rt.Mount {
		return &rt.Mount{ContainerPath: at, HostPath: filepath.Join(dir, from)}
	}
	cfg.Mounts = []*rt.Mount{mount("/m/below/deep", "inner"), mount("/m", "outer"), mount("/missing", "made/for/me"), mount("/dev/termination-log", "log"), mount("/etc/hosts", "hosts"),
		{ContainerPath: "/opt/options", HostPath: filepath.Join(dir, "inner"), MountOptions: []string{"noexec", "nosuid"}}}
	id := p.Start(cfg)
	n.Says(t, id, map[string]string{
		"cat /m/o /m/below/deep/i":                                    "outerinner",
		"ls -A /missing":                                              "",
		"echo done >/dev/termination-log; cat /etc/hosts":             "mine",
		"grep ' /opt/options ' /proc/self/mountinfo | grep -c noexec": "1\n",
	})
	if b, err := os.ReadFile(filepath.Join(dir, "log")); err != nil || string(b) != "done\n" {
		t.Errorf("termination log %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "made/for/me")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("missing host path: %v, %v", st, err)
	}
	s := n.Status(t, id)
	var at []string
	for _, m := range s.Mounts {
		at = append(at, m.ContainerPath)
	}
	if fmt.Sprint(at) != "[/m/below/deep /m /missing /dev/termination-log /etc/hosts /opt/options]" {
		t.Errorf("mounts in status %q", at)
	}
}
