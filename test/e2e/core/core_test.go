// Package core tests the life of pods and containers against a real daemon, as kubelet sees it.
package core

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

func TestStatusIsReady(t *testing.T) {
	n := harness.Get(t)
	s, err := n.Runtime.Status(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Status.Conditions {
		if (c.Type == "RuntimeReady" || c.Type == "NetworkReady") && !c.Status {
			t.Errorf("%s is false: %s: %s", c.Type, c.Reason, c.Message)
		}
	}
	v, err := n.Runtime.Version(t.Context(), "v1")
	if err != nil || v.RuntimeApiVersion != "v1" || v.RuntimeName == "" || v.RuntimeVersion == "" {
		t.Errorf("Version: %v, %v", v, err)
	}
}

func TestPodLife(t *testing.T) {
	n := harness.Get(t)
	ctx := t.Context()
	p := n.Run(t, harness.PodConfig("life", n.Dir))
	if len(p.ID) != 64 {
		t.Errorf("id %q is not 64 hex digits", p.ID)
	}
	s, err := n.Runtime.PodSandboxStatus(ctx, p.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	st := s.Status
	if st.State != rt.PodSandboxState_SANDBOX_READY || st.Metadata.Uid != p.Config.Metadata.Uid || st.CreatedAt == 0 ||
		st.Labels["name"] != "life" || st.Annotations["e2e"] != "yes" || st.Network.GetIp() == "" {
		t.Errorf("status of a running pod: %v", st)
	}
	again, err := n.Runtime.RunPodSandbox(ctx, p.Config, "")
	if n.Root != "" && (err != nil || again != p.ID) {
		t.Errorf("the same pod asked for again: %q, %v, want %q", again, err, p.ID)
	}
	for range 2 {
		if err := n.Runtime.StopPodSandbox(ctx, p.ID); err != nil {
			t.Fatalf("StopPodSandbox: %v", err)
		}
	}
	if s, err = n.Runtime.PodSandboxStatus(ctx, p.ID, false); err != nil || s.Status.State != rt.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("status of a stopped pod: %v, %v", s, err)
	}
	for range 2 {
		if err := n.Runtime.RemovePodSandbox(ctx, p.ID); err != nil {
			t.Fatalf("RemovePodSandbox: %v", err)
		}
	}
	list, err := n.Runtime.ListPodSandbox(ctx, &rt.PodSandboxFilter{Id: p.ID})
	if err != nil || len(list) != 0 {
		t.Errorf("a removed pod is listed: %v, %v", list, err)
	}
}

func TestContainerLife(t *testing.T) {
	n := harness.Get(t)
	ctx := t.Context()
	p := n.Run(t, harness.PodConfig("containers", n.Dir))
	id := p.Create(harness.Command("main", "echo out; echo err >&2; sleep 1000"))
	if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_CREATED || s.CreatedAt == 0 || s.StartedAt != 0 {
		t.Errorf("created: %v", s)
	}
	if err := n.Runtime.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	s := n.Status(t, id)
	if s.State != rt.ContainerState_CONTAINER_RUNNING || s.StartedAt < s.CreatedAt || s.ImageRef == "" || s.LogPath != filepath.Join(p.Config.LogDirectory, "main.log") {
		t.Errorf("running: %v", s)
	}
	if err := n.Runtime.StartContainer(ctx, id); err == nil {
		t.Error("a running container could be started")
	}
	harness.Eventually(t, harness.Patience, "both streams are in the log", func() bool {
		return p.Log("main.log", "stdout") == "out\n" && p.Log("main.log", "stderr") == "err\n"
	})
	begin := time.Now()
	if err := n.Runtime.StopContainer(ctx, id, 1); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > harness.Patience {
		t.Errorf("stop with a grace of one second took %v", d)
	}
	s = n.Status(t, id)
	if s.State != rt.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 || s.FinishedAt < s.StartedAt || s.Reason != "Error" {
		t.Errorf("stopped: %v", s)
	}
	for range 2 {
		if err := n.Runtime.RemoveContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("exits", n.Dir))
	for _, c := range []struct {
		name, script string
		code         int32
		reason       string
	}{
		{"good", "exit 0", 0, "Completed"},
		{"bad", "exit 7", 7, "Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := n.Exited(t, p.Start(harness.Command(c.name, c.script)))
			if s.ExitCode != c.code || s.Reason != c.reason {
				t.Errorf("exit %d, reason %q; want %d, %q", s.ExitCode, s.Reason, c.code, c.reason)
			}
		})
	}
}

// The first process of a PID namespace ignores what it has no handler for, so this one must not be the first.
func TestExitBySignal(t *testing.T) {
	n := harness.Get(t)
	pod := harness.PodConfig("signal", n.Dir)
	pod.Linux.SecurityContext.NamespaceOptions.Pid = rt.NamespaceMode_POD
	cfg := harness.Command("signal", "kill -TERM $$")
	cfg.Linux.SecurityContext.NamespaceOptions.Pid = rt.NamespaceMode_POD
	p := n.Run(t, pod)
	if s := n.Exited(t, p.Start(cfg)); s.ExitCode != 143 || s.Reason != "Error" {
		t.Errorf("exit %d, reason %q; want 143, Error", s.ExitCode, s.Reason)
	}
}

func TestOOMKilled(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("oom", n.Dir))
	cfg := harness.Command("oom", "dd if=/dev/zero of=/dev/null bs=60M")
	cfg.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 20 << 20}
	if s := n.Exited(t, p.Start(cfg)); s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("exit %d, reason %q", s.ExitCode, s.Reason)
	}
}

func TestLogs(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("logs", n.Dir))
	t.Run("long lines are split and nothing is lost", func(t *testing.T) {
		n.Exited(t, p.Start(harness.Command("long", "for i in 1 2 3; do head -c 50000 /dev/zero | tr '\\0' x; echo; done; printf end")))
		if got := p.Log("long.log", "stdout"); got != strings.Repeat(strings.Repeat("x", 50000)+"\n", 3)+"end" && got != strings.Repeat(strings.Repeat("x", 50000)+"\n", 3)+"end\n" {
			t.Errorf("%d bytes, want 150006", len(got))
		}
	})
	t.Run("rotation", func(t *testing.T) {
		id := p.Start(harness.Command("turn", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done"))
		log := filepath.Join(p.Config.LogDirectory, "turn.log")
		harness.Eventually(t, harness.Patience, "something is logged", func() bool { st, err := os.Stat(log); return err == nil && st.Size() > 0 })
		if err := os.Rename(log, log+".1"); err != nil {
			t.Fatal(err)
		}
		if err := n.Runtime.ReopenContainerLog(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, harness.Patience, "the new file grows", func() bool { st, err := os.Stat(log); return err == nil && st.Size() > 0 })
		last := strings.Fields(p.Log("turn.log.1", "stdout"))
		first := strings.Fields(p.Log("turn.log", "stdout"))
		if len(last) == 0 || len(first) == 0 {
			t.Fatal("one of the files is empty")
		}
		if a, b := len(last), first[0]; b != itoa(a+1) {
			t.Errorf("the old file ends after %d lines, the new begins with %s", a, b)
		}
	})
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestExecSync(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("exec", n.Dir))
	id := p.Start(harness.Command("main", "sleep 1000"))
	if got := n.Exec(t, id, "echo", "-n", "hello"); got != "hello" {
		t.Errorf("output %q", got)
	}
	if got := strings.TrimSpace(n.Exec(t, id, "hostname")); got != "exec" {
		t.Errorf("hostname %q", got)
	}
	if got := n.Exec(t, id, "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver 10.0.0.10") || !strings.Contains(got, "search e2e.svc") || !strings.Contains(got, "ndots:5") {
		t.Errorf("resolv.conf %q", got)
	}
	out, errOut, err := n.Runtime.ExecSync(t.Context(), id, []string{"sh", "-c", "echo o; echo e >&2; exit 3"}, 0)
	var code utilexec.ExitError
	if !errors.As(err, &code) || code.ExitStatus() != 3 || string(out) != "o\n" || string(errOut) != "e\n" {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
	if n.Root == "" {
		return // foreign: containerd waits for the pipes, which the command's children hold
	}
	begin := time.Now()
	if _, _, err = n.Runtime.ExecSync(t.Context(), id, []string{"sh", "-c", "sleep 77 & sleep 77"}, time.Second); err == nil {
		t.Error("a command that outlives its timeout succeeded")
	}
	if d := time.Since(begin); d > harness.Patience {
		t.Errorf("a timeout of one second took %v", d)
	}
	harness.Eventually(t, harness.Patience, "what the command started is gone", func() bool {
		out, _, err := n.Runtime.ExecSync(t.Context(), id, []string{"sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"}, 0)
		return err == nil && !strings.Contains(string(out), "sleep 77")
	})
}

// Two containers of a pod meet on localhost; two pods meet by address; the host reaches both.
func TestNetwork(t *testing.T) {
	n := harness.Get(t)
	web := n.Run(t, harness.PodConfig("web", n.Dir))
	cfg := harness.Command("web", "")
	cfg.Image.Image, cfg.Command = harness.Nginx, nil
	web.Start(cfg)
	s, err := n.Runtime.PodSandboxStatus(t.Context(), web.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	ip := s.Status.Network.Ip
	fetch := func(id, url string) bool {
		out, _, err := n.Runtime.ExecSync(t.Context(), id, []string{"wget", "-q", "-O", "-", url}, 10*time.Second)
		return err == nil && strings.Contains(string(out), "nginx")
	}
	near := web.Start(harness.Command("near", "sleep 1000"))
	harness.Eventually(t, harness.Patience, "a neighbour in the pod reaches localhost", func() bool { return fetch(near, "http://127.0.0.1/") })
	far := n.Run(t, harness.PodConfig("far", n.Dir)).Start(harness.Command("far", "sleep 1000"))
	harness.Eventually(t, harness.Patience, "another pod reaches "+ip, func() bool { return fetch(far, "http://"+ip+"/") })
}

// A read-only root, a bind mount, a device, the user: a sample of what a container is given.
func TestContainerSetting(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("setting", n.Dir))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := harness.Command("main", "sleep 1000")
	cfg.WorkingDir = "/tmp"
	cfg.Envs = []*rt.KeyValue{{Key: "GREETING", Value: []byte("hello there")}}
	cfg.Mounts = []*rt.Mount{{ContainerPath: "/data", HostPath: dir, Readonly: true}}
	cfg.Linux.SecurityContext.RunAsUser = &rt.Int64Value{Value: 1234}
	cfg.Linux.SecurityContext.ReadonlyRootfs = true
	cfg.Linux.SecurityContext.NoNewPrivs = true
	id := p.Start(cfg)
	n.Says(t, id, map[string]string{
		"id -u":          "1234\n",
		"pwd":            "/tmp\n",
		"cat /data/file": "from the host\n",
		"echo $GREETING": "hello there\n",
		"touch /data/x 2>/dev/null || echo read-only":                   "read-only\n",
		"touch /x 2>/dev/null || echo read-only":                        "read-only\n",
		"grep NoNewPrivs /proc/self/status":                             "NoNewPrivs:\t1\n",
		"grep Seccomp: /proc/self/status":                               "Seccomp:\t0\n",
		"ls /litter 2>/dev/null || echo no; ls /opaque":                 "no\nabove\n",
		"ls -l /dev/null | cut -c1; ls /dev/shm >/dev/null && echo shm": "c\nshm\n",
	})
}

func TestImages(t *testing.T) {
	n := harness.Get(t)
	ctx := t.Context()
	n.Pull(t, harness.Busybox)
	s, err := n.Images.ImageStatus(ctx, &rt.ImageSpec{Image: harness.Busybox}, false)
	if err != nil || s.Image == nil {
		t.Fatalf("ImageStatus: %v, %v", s, err)
	}
	if s.Image.Size == 0 || len(s.Image.RepoTags) == 0 || len(s.Image.RepoDigests) == 0 {
		t.Errorf("%v", s.Image)
	}
	for _, ref := range append([]string{s.Image.Id}, append(s.Image.RepoTags, s.Image.RepoDigests...)...) {
		same, err := n.Images.ImageStatus(ctx, &rt.ImageSpec{Image: ref}, false)
		if err != nil || same.Image.GetId() != s.Image.Id {
			t.Errorf("ImageStatus(%s): %v, %v", ref, same, err)
		}
	}
	gone := &rt.ImageSpec{Image: "registry.k8s.io/no-such-image:1"}
	if s, err := n.Images.ImageStatus(ctx, gone, false); err != nil || s.Image != nil {
		t.Errorf("status of a missing image: %v, %v", s, err)
	}
	if err := n.Images.RemoveImage(ctx, gone); err != nil {
		t.Errorf("removal of a missing image: %v", err)
	}
	if _, err := n.Images.PullImage(ctx, gone, nil, nil); err == nil {
		t.Error("an image that does not exist was pulled")
	}
	if fs, err := n.Images.ImageFsInfo(ctx); err != nil || len(fs.ImageFilesystems) == 0 || fs.ImageFilesystems[0].UsedBytes.GetValue() == 0 {
		t.Errorf("ImageFsInfo: %v, %v", fs, err)
	}
}
