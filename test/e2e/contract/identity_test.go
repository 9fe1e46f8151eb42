package contract

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// many calls f from eight clients at once, of which the first leaves at once, and returns what the others got.
func many(t *testing.T, what string, f func(context.Context) (string, error)) string {
	t.Helper()
	got, errs := make([]string, 8), make([]error, 8)
	leaving, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range got {
		ctx := t.Context()
		if i == 0 {
			ctx = leaving
		}
		all.Go(func() { got[i], errs[i] = f(ctx) })
	}
	leave()
	all.Wait()
	for i := range got[1:] {
		if errs[i+1] != nil || got[i+1] != got[1] {
			t.Errorf("%s: client %d got %.12q, %v; another %.12q", what, i+1, got[i+1], errs[i+1], got[1])
		}
	}
	return got[1]
}

// Many clients ask for the same, some leave and come back: it is done once, and all get it. The same name with other words is
// refused; the next attempt is another thing; the beginning of an id is as good as the id, and nothing begins with nothing.
func TestIdentity(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	n.Pull(t, harness.Busybox)
	cfg := harness.PodConfig("identity", n.Dir)
	run := func(ctx context.Context, cfg *rt.PodSandboxConfig) (string, error) {
		r, err := n.Raw.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: cfg})
		return r.GetPodSandboxId(), err
	}
	pod := many(t, "RunPodSandbox", func(ctx context.Context) (string, error) { return run(ctx, cfg) })
	p := n.Run(t, cfg) // for the clean-up: it is that pod
	if p.ID != pod {
		t.Errorf("asked for again: pod %.12s, was %.12s", p.ID, pod)
	}
	create := func(ctx context.Context, c *rt.ContainerConfig) (string, error) {
		r, err := n.Raw.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: pod[:16], Config: c, SandboxConfig: cfg})
		return r.GetContainerId(), err
	}
	c := harness.Command("c", "trap 'echo got >>/count' TERM; while :; do sleep 0.1; done")
	id := many(t, "CreateContainer", func(ctx context.Context) (string, error) { return create(ctx, c) })
	many(t, "StartContainer", func(ctx context.Context) (string, error) {
		_, err := n.Raw.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: id[:16]})
		if status.Code(err) == codes.FailedPrecondition { // came when it was started already: only what is created can be
			err = nil
		}
		return "", err
	})
	if s := n.Status(t, id[:13]); s.Id != id || s.State != rt.ContainerState_CONTAINER_RUNNING {
		t.Errorf("by the beginning of its id: %v", s)
	}

	other := harness.PodConfig("identity", n.Dir)
	other.Metadata = cfg.Metadata
	other.Labels = map[string]string{"other": "yes"}
	if id, err := run(t.Context(), other); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same pod in other words: %q, %v", id, err)
	}
	if id, err := create(t.Context(), harness.Command("c", "something else")); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same container in other words: %q, %v", id, err)
	}
	again := harness.Command("c", "sleep 1000")
	again.Metadata.Attempt = 1
	if next, err := create(t.Context(), again); err != nil || next == id {
		t.Errorf("the next attempt: %q, %v", next, err)
	}
	for _, prefix := range []string{"", " ", "\x00"} {
		if _, err := n.Raw.ContainerStatus(t.Context(), &rt.ContainerStatusRequest{ContainerId: prefix}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("id %q: %v", prefix, err)
		}
	}

	begin := time.Now()
	many(t, "StopContainer", func(ctx context.Context) (string, error) {
		_, err := n.Raw.StopContainer(ctx, &rt.StopContainerRequest{ContainerId: id, Timeout: 2})
		return "", err
	})
	if s := n.Status(t, id); s.ExitCode != 137 || time.Since(begin) < 2*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), s)
	}
}

// A client that stops a container and leaves has stopped it all the same.
func TestStopWithoutClient(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("leaves", n.Dir))
	id := p.Start(harness.Command("c", "trap '' TERM; while :; do sleep 0.1; done"))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := n.Raw.StopContainer(ctx, &rt.StopContainerRequest{ContainerId: id, Timeout: 2})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	if s := n.Exited(t, id); s.ExitCode != 137 {
		t.Errorf("%v", s)
	}
}

// Nothing of a container that is gone holds a volume: it can be unmounted while the pod runs on. The pod's network namespace is
// where others look for it.
func TestBusyVolume(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("busy", n.Dir))
	dir := filepath.Join(n.Dir, "busy")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if err := unix.Mount("volume", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	other := p.Start(harness.Command("other", "sleep 1000"))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Mounts = []*rt.Mount{{ContainerPath: "/volume", HostPath: dir}}
	id := p.Start(cfg)
	n.Exec(t, id, "touch", "/volume/x")
	if err := n.Runtime.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, "the volume can be unmounted", func() bool { return unix.Unmount(dir, 0) == nil })
	var own, host unix.Stat_t
	if err := unix.Stat("/run/netns/berth-"+p.ID, &own); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat("/proc/self/ns/net", &host); err != nil || own.Dev != host.Dev || own.Ino == host.Ino {
		t.Errorf("the pin is %v, this machine's namespace %v, %v", own, host, err)
	}
	if s := n.Status(t, other); s.State != rt.ContainerState_CONTAINER_RUNNING || !strings.HasPrefix(s.LogPath, "/") {
		t.Errorf("%v", s)
	}
}
