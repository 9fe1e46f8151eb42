package handlers

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// A container's whole life: output, exec with its exit code and its timeout, stats, update, stop signal, exit code.
func TestLife(t *testing.T) {
	each(t, func(t *testing.T, n *harness.Node, handler string) {
		p := n.RunOn(t, harness.PodConfig("life", n.Dir), handler)
		s, err := n.Runtime.PodSandboxStatus(t.Context(), p.ID, false)
		if err != nil || s.Status.RuntimeHandler != handler {
			t.Errorf("runtime_handler %q, %v", s.GetStatus().GetRuntimeHandler(), err)
		}
		cfg := harness.Command("c", "trap 'echo bye; exit 7' TERM; echo data >/file; echo out; echo err >&2; while :; do sleep 0.05; done")
		cfg.Linux.Resources = &rt.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}
		id := p.Start(cfg)
		harness.Eventually(t, harness.Patience, "output in the log", func() bool {
			return p.Log("c.log", "stdout") == "out\n" && p.Log("c.log", "stderr") == "err\n"
		})
		if got := n.Exec(t, id, "cat", "/file"); got != "data\n" {
			t.Errorf("exec sees %q", got)
		}
		execs(t, n, id)
		stats(t, n, id)
		update(t, n, id)
		if err := n.Runtime.StopContainer(t.Context(), id, 20); err != nil {
			t.Fatal(err)
		}
		if st := n.Status(t, id); st.State != rt.ContainerState_CONTAINER_EXITED || st.ExitCode != 7 || st.Reason != "Error" {
			t.Errorf("after stop: %v, exit code %d, reason %q", st.State, st.ExitCode, st.Reason)
		}
		if got := p.Log("c.log", "stdout"); got != "out\nbye\n" {
			t.Errorf("log %q", got)
		}
	})
}

func execs(t *testing.T, n *harness.Node, id string) {
	t.Helper()
	r, err := n.Raw.ExecSync(t.Context(), &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo o; echo e >&2; exit 3"}, Timeout: 20})
	if err != nil || string(r.Stdout) != "o\n" || string(r.Stderr) != "e\n" || r.ExitCode != 3 {
		t.Errorf("exec: %v, %v", r, err)
	}
	// The timeout reaches descendants that have left the session.
	_, err = n.Raw.ExecSync(t.Context(), &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "setsid sleep 4321 & sleep 4321"}, Timeout: 1})
	if err == nil || !strings.Contains(err.Error(), "DeadlineExceeded") {
		t.Errorf("exec beyond its timeout: %v", err)
	}
	harness.Eventually(t, harness.Patience, "nothing is left of the exec", func() bool {
		return !strings.Contains(n.Exec(t, id, "ps"), "sleep 4321")
	})
}

func stats(t *testing.T, n *harness.Node, id string) {
	t.Helper()
	st, err := n.Runtime.ContainerStats(t.Context(), id)
	if err != nil || st.Cpu.UsageCoreNanoSeconds.GetValue() == 0 || st.Memory.UsageBytes.GetValue() == 0 || st.Memory.AvailableBytes.GetValue() == 0 {
		t.Errorf("stats: %v, %v", st, err)
	}
}

func update(t *testing.T, n *harness.Node, id string) {
	t.Helper()
	set := func(r *rt.LinuxContainerResources) error {
		return n.Runtime.UpdateContainerResources(t.Context(), id, &rt.ContainerResources{Linux: r})
	}
	if err := set(&rt.LinuxContainerResources{CpuShares: 1024, CpuQuota: 50000, CpuPeriod: 100000}); err != nil {
		t.Errorf("update: %v", err)
	}
	if err := set(&rt.LinuxContainerResources{CpuShares: 2048, CpusetCpus: "4000"}); err == nil {
		t.Error("update took a cpuset that does not exist")
	}
	if r := n.Status(t, id).GetResources().GetLinux(); r.GetCpuShares() != 1024 || r.GetCpuQuota() != 50000 || r.GetMemoryLimitInBytes() != 64<<20 {
		t.Errorf("in force: %v", r)
	}
}

// The daemon dies and comes back: running, created and ended containers are what they were, and the pod takes more.
func TestRestart(t *testing.T) {
	each(t, func(t *testing.T, n *harness.Node, handler string) {
		p := n.RunOn(t, harness.PodConfig("restart", n.Dir), handler)
		runs := p.Start(harness.Command("runs", "echo hi >/dev/shm/x; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"))
		created := p.Create(harness.Command("created", "cat /dev/shm/x; exit 5"))
		ends := p.Start(harness.Command("ends", "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 9"))
		if err := n.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		size := func() int64 {
			st, err := os.Stat(filepath.Join(p.Config.LogDirectory, "runs.log"))
			if err != nil {
				t.Fatal(err)
			}
			return st.Size()
		}
		at := size()
		harness.Eventually(t, harness.Patience, "the log grows without a daemon", func() bool { return size() > at })
		if err := n.Launch(); err != nil {
			t.Fatal(err)
		}
		if s := n.Status(t, runs); s.State != rt.ContainerState_CONTAINER_RUNNING {
			t.Errorf("running container: %v", s.State)
		}
		n.Exec(t, runs, "touch", "/dev/shm/go") // memory shared with the other containers
		if s := n.Exited(t, ends); s.ExitCode != 9 {
			t.Errorf("ended with %d", s.ExitCode)
		}
		if err := n.Runtime.StartContainer(t.Context(), created); err != nil {
			t.Fatal(err)
		}
		if s := n.Exited(t, created); s.ExitCode != 5 || p.Log("created.log", "stdout") != "hi\n" {
			t.Errorf("container created before: exit code %d, log %q", s.ExitCode, p.Log("created.log", "stdout"))
		}
		more := p.Start(harness.Command("more", "cat /dev/shm/x"))
		if s := n.Exited(t, more); s.ExitCode != 0 || p.Log("more.log", "stdout") != "hi\n" {
			t.Errorf("container of the new daemon: exit code %d", s.ExitCode)
		}
		if err := n.Runtime.StopContainer(t.Context(), runs, 0); err != nil {
			t.Fatal(err)
		}
		if s := n.Status(t, runs); s.ExitCode != 137 {
			t.Errorf("killed: exit code %d", s.ExitCode)
		}
	})
}

// A handler that is not configured any more: its pods go on, end, and leave nothing.
func TestForgotten(t *testing.T) {
	each(t, func(t *testing.T, n *harness.Node, handler string) {
		p := n.RunOn(t, harness.PodConfig("forgotten", n.Dir), handler)
		id := p.Start(harness.Command("c", "sleep 1000"))
		relaunch := func(text string) {
			t.Helper()
			if err := n.Kill(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := n.Configure(text); err != nil {
				t.Fatal(err)
			}
			if err := n.Launch(); err != nil {
				t.Fatal(err)
			}
		}
		relaunch("")
		defer func() {
			relaunch(config(n.Cache()))
			if err := n.Warm(); err != nil { // a daemon without pods gives the bridge back
				t.Error(err)
			}
		}()
		if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING {
			t.Errorf("running container: %v", s.State)
		}
		if err := n.Runtime.StopPodSandbox(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
		if err := n.Runtime.RemovePodSandbox(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(n.State, "oci", handler, "*"))
		if len(left) > 0 || err != nil {
			t.Errorf("left in the runtime's directory: %v, %v", left, err)
		}
	})
}

// What goes wrong is said: memory, a command that does not exist, a terminal's exit.
func TestEnds(t *testing.T) {
	each(t, func(t *testing.T, n *harness.Node, handler string) {
		p := n.RunOn(t, harness.PodConfig("ends", n.Dir), handler)
		oom := harness.Command("oom", "dd if=/dev/zero of=/dev/null bs=60M")
		oom.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}
		if s := n.Exited(t, p.Start(oom)); s.Reason != "OOMKilled" || s.ExitCode != 137 {
			t.Errorf("out of memory: %q, %d", s.Reason, s.ExitCode)
		}
		tty := harness.Command("tty", "tty; exit 6")
		tty.Tty = true
		if s := n.Exited(t, p.Start(tty)); s.ExitCode != 6 || !strings.HasPrefix(p.Log("tty.log", "stdout"), "/dev/") {
			t.Errorf("terminal: exit code %d, log %q", s.ExitCode, p.Log("tty.log", "stdout"))
		}
		none := harness.Command("none", "")
		none.Command = []string{"/no/such/program"}
		id, err := n.Runtime.CreateContainer(t.Context(), p.ID, none, p.Config)
		if err == nil { // crun finds out when it is started
			err = n.Runtime.StartContainer(t.Context(), id)
		}
		if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
			t.Errorf("command that does not exist: %v", err)
		}
	})
}

// A pod with a user namespace: root there is nobody here, and owns its files and the shared memory.
func TestUserNamespace(t *testing.T) {
	each(t, func(t *testing.T, n *harness.Node, handler string) {
		cfg := harness.PodConfig("userns", n.Dir)
		ids := []*rt.IDMapping{{HostId: 300000, Length: 65536}}
		cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &rt.UserNamespace{Mode: rt.NamespaceMode_POD, Uids: ids, Gids: ids}
		p := n.RunOn(t, cfg, handler)
		c := harness.Command("c", "sleep 1000")
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions
		id := p.Start(c)
		got := n.Exec(t, id, "sh", "-c", "cat /proc/self/uid_map; stat -c '%u %g' / /bin/sh /etc/hosts /dev/shm; echo x >/new && echo x >/dev/shm/new && echo wrote")
		if want := []string{"0", "300000", "65536", "0", "0", "0", "0", "0", "0", "0", "0", "wrote"}; strings.Join(strings.Fields(got), " ") != strings.Join(want, " ") {
			t.Errorf("inside: %q", got)
		}
		var st syscall.Stat_t
		new := filepath.Join(n.Root, "pods", p.ID, "c", id, "upper", "new")
		if err := syscall.Stat(new, &st); err != nil || st.Uid != 300000 || st.Gid != 300000 {
			t.Errorf("file of the container's root: %d:%d, %v", st.Uid, st.Gid, err)
		}
	})
}
