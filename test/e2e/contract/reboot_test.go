package contract

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// reboot does to a daemon's pods what a power cut does: every process ends, and all that lives in memory is gone. The daemon
// started then finds another boot id.
func reboot(t *testing.T, n *harness.Node, pods ...*harness.Pod) {
	t.Helper()
	if err := n.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var groups []string
	for _, p := range pods {
		found, _ := filepath.Glob("/sys/fs/cgroup/*" + p.Config.Linux.CgroupParent)
		groups = append(groups, append(found, "/sys/fs/cgroup"+p.Config.Linux.CgroupParent)...)
	}
	harness.Eventually(t, harness.Patience, "nothing runs any more", func() bool {
		left := 0
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range procs { // monitors, and what else works in the state directory
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), n.State+"/") {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				syscall.Kill(pid, syscall.SIGKILL)
				left++
			}
		}
		for _, g := range groups {
			filepath.Walk(g, func(name string, _ os.FileInfo, err error) error {
				if b, rerr := os.ReadFile(filepath.Join(name, "cgroup.procs")); err == nil && rerr == nil {
					for _, f := range strings.Fields(string(b)) {
						pid, _ := strconv.Atoi(f)
						syscall.Kill(pid, syscall.SIGKILL)
						left++
					}
				}
				return nil
			})
		}
		return left == 0
	})
	for _, p := range pods {
		unix.Unmount("/run/netns/berth-"+p.ID, unix.MNT_DETACH)
		os.Remove("/run/netns/berth-" + p.ID)
		pins, _ := filepath.Glob(filepath.Join(n.State, "pods", p.ID, "ns/*"))
		for _, m := range pins {
			unix.Unmount(m, unix.MNT_DETACH)
		}
	}
	unix.Unmount(filepath.Join(n.State, "roots"), unix.MNT_DETACH)
	for _, g := range groups {
		var dirs []string
		filepath.Walk(g, func(name string, st os.FileInfo, err error) error {
			if err == nil && st.IsDir() {
				dirs = append([]string{name}, dirs...)
			}
			return nil
		})
		for _, d := range dirs {
			os.Remove(d)
		}
	}
	if err := os.RemoveAll(n.State); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.State, 0o755); err != nil {
		t.Fatal(err)
	}
	const boot = "/proc/sys/kernel/random/boot_id"
	other := filepath.Join(n.Dir, "boot_id")
	if err := os.WriteFile(other, []byte("01234567-89ab-cdef-0123-456789abcdef\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(other, boot, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(boot, unix.MNT_DETACH) })
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
}

// After a reboot pods are history with the ends that were seen, without addresses; their networks are given back, without a
// namespace, when they are stopped; what nobody knows of is given back at once; and the names serve for the next attempt.
func TestReboot(t *testing.T) {
	n := recording(t, harness.Answer("10.99.0.7/24"))
	first, orphan := n.Run(t, harness.PodConfig("first", n.Dir)), n.Run(t, harness.PodConfig("orphan", n.Dir))
	done := first.Start(harness.Command("done", "exit 4"))
	n.Exited(t, done)
	runs, created := first.Start(harness.Command("runs", "sleep 1000")), first.Create(harness.Command("created", "sleep 1000"))
	was := n.Status(t, runs)
	calls := filepath.Join(n.Plugins(), "calls")
	if err := os.Truncate(calls, 0); err != nil {
		t.Fatal(err)
	}
	lost := func() { // its record is gone with the power, that of its network is not
		if err := os.RemoveAll(filepath.Join(n.Root, "pods", orphan.ID)); err != nil {
			t.Fatal(err)
		}
	}
	lost()
	reboot(t, n, first, orphan)
	ctx := t.Context()
	pods, err := n.Runtime.ListPodSandbox(ctx, nil)
	if err != nil || len(pods) != 1 || pods[0].Id != first.ID || pods[0].State != rt.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("pods %v, %v", pods, err)
	}
	s, err := n.Runtime.PodSandboxStatus(ctx, first.ID, false)
	if err != nil || s.Status.Network.GetIp() != "" || s.Status.Metadata.Uid != first.Config.Metadata.Uid {
		t.Errorf("pod %v, %v", s, err)
	}
	for id, want := range map[string]int32{done: 4, runs: 255, created: 255} {
		c := n.Status(t, id)
		reason := map[int32]string{4: "Error", 255: "Unknown"}[want]
		if c.State != rt.ContainerState_CONTAINER_EXITED || c.ExitCode != want || c.Reason != reason || c.FinishedAt == 0 || c.CreatedAt == 0 {
			t.Errorf("container %s: %v", c.Metadata.Name, c)
		}
	}
	if c := n.Status(t, runs); c.CreatedAt != was.CreatedAt || c.StartedAt != was.StartedAt || c.LogPath != was.LogPath || c.ImageId != was.ImageId {
		t.Errorf("%v, was %v", c, was)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(n.Plugins(), name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	harness.Eventually(t, harness.Patience, "the network nobody knows of is given back, and the plugin told what is valid", func() bool {
		return strings.Contains(read("calls"), "DEL "+orphan.ID) && strings.Contains(read("calls"), "GC ")
	})
	harness.Eventually(t, harness.Patience, "the valid attachments are those of pods that are known", func() bool {
		gc := read("GC.json")
		return strings.Contains(gc, first.ID) && !strings.Contains(gc, orphan.ID)
	})
	if strings.Contains(read("calls"), "DEL "+first.ID) {
		t.Error("the network of a pod that is known was given back before it was stopped")
	}
	if err := n.Runtime.StopPodSandbox(ctx, first.ID); err != nil {
		t.Fatal(err)
	}
	env := read("DEL.env")
	if !strings.Contains(env, "CNI_CONTAINERID="+first.ID+"\n") || strings.Contains(env, "CNI_NETNS=/") || !strings.Contains(read("DEL.json"), "10.99.0.7") {
		t.Errorf("DEL after a reboot: %q, %s", env, read("DEL.json"))
	}
	if left, _ := filepath.Glob(filepath.Join(n.Root, "net", first.ID+".json")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	next := first.Config
	next.Metadata.Attempt++
	n.Run(t, next).Start(harness.Command("again", "sleep 1000"))
}
