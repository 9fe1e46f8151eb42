package contract

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// pidOf is the first process of a running container, as this machine numbers it.
func pidOf(t *testing.T, n *harness.Node, id string) int {
	t.Helper()
	s, err := n.Runtime.ContainerStatus(t.Context(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(s.Info["info"]), &info); err != nil || info.Pid == 0 {
		t.Fatalf("pid in verbose status: %v, %s", err, s.Info["info"])
	}
	return info.Pid
}

// cgroupV2 reports whether the memory controller is cgroup2's.
func cgroupV2() bool {
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && strings.Contains(string(b), "memory")
}

// cgroupOf is the directory of a process's cgroup: of the controller, or on cgroup v2 the one there is.
func cgroupOf(t *testing.T, pid int, controller string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(strings.TrimSpace(string(b))) {
		f := strings.SplitN(strings.TrimSpace(l), ":", 3)
		if f[1] == "" && cgroupV2() {
			return "/sys/fs/cgroup" + f[2]
		}
		for c := range strings.SplitSeq(f[1], ",") {
			if c == controller && c != "" {
				return "/sys/fs/cgroup/" + controller + f[2]
			}
		}
	}
	t.Fatalf("process %d has no cgroup of %s: %s", pid, controller, b)
	return ""
}

// limits compares files of a container's cgroups: "controller file" with what they hold. A file that the kernel does not have
// is passed over if its name ends in "?".
func limits(t *testing.T, pid int, want map[string]string) {
	t.Helper()
	for what, value := range want {
		controller, file, _ := strings.Cut(what, " ")
		file, optional := strings.CutSuffix(file, "?")
		b, err := os.ReadFile(filepath.Join(cgroupOf(t, pid, controller), file))
		if os.IsNotExist(err) && optional {
			continue
		}
		if err != nil {
			t.Error(err)
		} else if got := strings.TrimSpace(string(b)); got != value {
			t.Errorf("%s is %q, want %q", file, got, value)
		}
	}
}

// What is asked for is what the kernel has: CPU, memory, swap, processors, level for the OOM killer; and again after updates.
func TestLimits(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("limits", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Linux.Resources = &rt.LinuxContainerResources{CpuShares: 2048, CpuPeriod: 50000, CpuQuota: 20000, MemoryLimitInBytes: 64 << 20,
		CpusetCpus: "0", CpusetMems: "0", OomScoreAdj: 777}
	id := p.Start(cfg)
	pid := pidOf(t, n, id)
	update := func(r *rt.LinuxContainerResources) {
		t.Helper()
		if err := n.Runtime.UpdateContainerResources(t.Context(), id, &rt.ContainerResources{Linux: r}); err != nil {
			t.Fatal(err)
		}
	}
	n.Says(t, id, map[string]string{
		"cat /proc/1/oom_score_adj": "777\n",
		"grep Cpus_allowed_list /proc/1/status; grep Mems_allowed_list /proc/1/status": "Cpus_allowed_list:\t0\nMems_allowed_list:\t0\n",
	})
	const m64, m80, m96 = "67108864", "83886080", "100663296"
	if cgroupV2() {
		limits(t, pid, map[string]string{"cpu cpu.weight": "174", "cpu cpu.max": "20000 50000", "memory memory.max": m64, "memory memory.swap.max?": "0", "cpuset cpuset.cpus": "0"})
		update(&rt.LinuxContainerResources{CpuQuota: -1})
		limits(t, pid, map[string]string{"cpu cpu.weight": "174", "cpu cpu.max": "max 50000"})
		update(&rt.LinuxContainerResources{MemoryLimitInBytes: 80 << 20, MemorySwapLimitInBytes: 96 << 20})
		limits(t, pid, map[string]string{"memory memory.max": m80, "memory memory.swap.max?": "16777216"})
		return
	}
	limits(t, pid, map[string]string{"cpu cpu.shares": "2048", "cpu cpu.cfs_period_us": "50000", "cpu cpu.cfs_quota_us": "20000", "memory memory.limit_in_bytes": m64,
		"memory memory.memsw.limit_in_bytes?": m64, "cpuset cpuset.cpus": "0"})
	update(&rt.LinuxContainerResources{CpuQuota: -1})
	limits(t, pid, map[string]string{"cpu cpu.shares": "2048", "cpu cpu.cfs_period_us": "50000", "cpu cpu.cfs_quota_us": "-1"})
	update(&rt.LinuxContainerResources{MemoryLimitInBytes: 80 << 20, MemorySwapLimitInBytes: 96 << 20})
	limits(t, pid, map[string]string{"memory memory.limit_in_bytes": m80, "memory memory.memsw.limit_in_bytes?": m96})
	// Down again, which has to be written in the other order.
	update(&rt.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20})
	limits(t, pid, map[string]string{"memory memory.limit_in_bytes": m64, "memory memory.memsw.limit_in_bytes?": m64})
}

// Shares become a weight by the formula that kubelet and runc use, and status goes on to tell the shares.
func TestWeights(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("weights", n.Dir))
	for shares, weight := range map[int64]string{2: "1", 100: "17", 1024: "100", 2048: "174", 262144: "10000"} {
		cfg := harness.Command(fmt.Sprintf("c-%d", shares), "sleep 1000")
		cfg.Linux.Resources = &rt.LinuxContainerResources{CpuShares: shares}
		id := p.Start(cfg)
		if got := n.Status(t, id).GetResources().GetLinux().GetCpuShares(); got != shares {
			t.Errorf("status tells %d shares of %d", got, shares)
		}
		if cgroupV2() {
			limits(t, pidOf(t, n, id), map[string]string{"cpu cpu.weight": weight})
		} else {
			limits(t, pidOf(t, n, id), map[string]string{"cpu cpu.shares": strconv.FormatInt(shares, 10)})
		}
	}
}

// unified is for cgroup v2: written last, verbatim; elsewhere it says nothing.
func TestUnified(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("unified", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, Unified: map[string]string{"memory.max": "33554432", "memory.low": "1048576", "memory.oom.group": "1"}}
	id := p.Start(cfg)
	if !cgroupV2() {
		limits(t, pidOf(t, n, id), map[string]string{"memory memory.limit_in_bytes": "67108864"})
		t.Skip("the rest needs a host with cgroup v2")
	}
	limits(t, pidOf(t, n, id), map[string]string{"memory memory.max": "33554432", "memory memory.low": "1048576", "memory memory.oom.group": "1"})
	for name, key := range map[string]string{"unknown": "memory.nosuch", "path": "../cgroup.procs", "controller": "nosuch.max"} {
		bad := harness.Command(name, "sleep 1000")
		bad.Linux.Resources = &rt.LinuxContainerResources{Unified: map[string]string{key: "1"}}
		if _, err := n.Runtime.CreateContainer(t.Context(), p.ID, bad, p.Config); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("unified %s: %v", key, err)
		}
	}
}

// The container's cgroup lies where tools look for it: by its id, below the pod's parent, as RuntimeConfig says.
func TestCgroupPaths(t *testing.T) {
	n := harness.Get(t)
	c, err := n.Runtime.RuntimeConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	driver, want := c.GetLinux().GetCgroupDriver(), rt.CgroupDriver_CGROUPFS
	if harness.Driver() == "systemd" {
		want = rt.CgroupDriver_SYSTEMD
	}
	if driver != want {
		t.Errorf("cgroup driver %v, want %v", driver, want)
	}
	pod := harness.PodConfig("paths", n.Dir)
	if c.GetLinux().GetCgroupDriver() == rt.CgroupDriver_SYSTEMD {
		pod.Linux.CgroupParent = "/berth.slice/berth-paths.slice"
	}
	p := n.Run(t, pod)
	id := p.Start(harness.Command("c", "sleep 1000"))
	pid := pidOf(t, n, id)
	for _, controller := range []string{"memory", "cpu", "pids", "freezer", "devices"} {
		dir := cgroupOf(t, pid, controller)
		want := pod.Linux.CgroupParent + "/" + id
		if c.GetLinux().GetCgroupDriver() == rt.CgroupDriver_SYSTEMD {
			want = "/berth.slice/berth-paths.slice/berth-" + id + ".scope"
		}
		if !strings.HasSuffix(dir, want) {
			t.Errorf("%s: %s, want .../%s", controller, dir, want)
		}
	}
}

// The daemon's own limit of processes for each container.
func TestPidsLimit(t *testing.T) {
	n := harness.Own(t, harness.Setup{Config: "pids_limit = 40\n", CNI: map[string]string{"10.conflist": harness.Recording},
		Plugins: map[string]string{"recorder": harness.Recorder, "answer": harness.Answer("10.99.0.7/24")}})
	p := n.Run(t, harness.PodConfig("pids", n.Dir))
	id := p.Start(harness.Command("c", "sleep 1000"))
	limits(t, pidOf(t, n, id), map[string]string{"pids pids.max": "40"})
	// The last forks fail, and with them the shell.
	if out, _, err := n.Runtime.ExecSync(t.Context(), id, []string{"sh", "-c", "for i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5; do sleep 5 & done; done; echo all"}, 0); err == nil {
		t.Errorf("60 processes where 40 are allowed: %q", out)
	}
}

// After StopPodSandbox nothing of the pod is below its cgroup, whatever its processes did: kubelet removes it then.
func TestPodCgroupEmpty(t *testing.T) {
	n := harness.Get(t)
	for _, mode := range []rt.NamespaceMode{rt.NamespaceMode_NODE, rt.NamespaceMode_POD, rt.NamespaceMode_CONTAINER} {
		pod := harness.PodConfig("leaves", n.Dir)
		pod.Linux.CgroupParent += "-" + strings.ToLower(mode.String())
		pod.Linux.SecurityContext.NamespaceOptions.Pid = mode
		var made []string
		hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		if err != nil {
			t.Fatal(err)
		}
		if cgroupV2() {
			hierarchies = []string{"/sys/fs/cgroup/cgroup.procs"}
		}
		for _, h := range hierarchies { // as kubelet makes it
			dir := filepath.Join(filepath.Dir(h), pod.Linux.CgroupParent)
			if err := os.Mkdir(dir, 0o755); err == nil {
				made = append(made, dir)
			}
		}
		defer func() {
			for _, dir := range made {
				if err := os.Remove(dir); err != nil {
					t.Errorf("kubelet could not remove the pod's cgroup: %v", err)
				}
			}
		}()
		p := n.Run(t, pod)
		cfg := harness.Command("c", "(setsid sleep 4712 &); (setsid sh -c \"trap '' TERM HUP; sleep 4713\" &); trap 'exit 0' TERM; while :; do sleep 0.1; done")
		cfg.Linux.SecurityContext.NamespaceOptions.Pid = mode
		id := p.Start(cfg)
		n.Exec(t, id, "sh", "-c", "(setsid sleep 4714 >/dev/null 2>&1 &)")
		if err := n.Runtime.StopPodSandbox(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
		for _, dir := range made {
			filepath.Walk(dir, func(name string, st os.FileInfo, err error) error {
				if err == nil && st.IsDir() && name != dir {
					t.Errorf("pid mode %v: %s is there after the pod was stopped", mode, name)
				}
				return nil
			})
			if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err != nil || len(b) > 0 {
				t.Errorf("pid mode %v: processes %q, %v", mode, b, err)
			}
		}
	}
}

// StopContainer ends everything the container has started, also where it is not alone in its PID namespace, and nothing else
// there.
func TestStopWholeTree(t *testing.T) {
	n := harness.Get(t)
	for _, mode := range []rt.NamespaceMode{rt.NamespaceMode_NODE, rt.NamespaceMode_POD} {
		pod := harness.PodConfig("tree", n.Dir)
		pod.Linux.SecurityContext.NamespaceOptions.Pid = mode
		p := n.Run(t, pod)
		start := func(name, script string) string {
			cfg := harness.Command(name, script)
			cfg.Linux.SecurityContext.NamespaceOptions.Pid = mode
			return p.Start(cfg)
		}
		mark := fmt.Sprintf("47%d", os.Getpid())
		other := start("other", "sleep 1000")
		id := start("c", fmt.Sprintf("(setsid sleep %s1 &); (setsid sh -c \"trap '' TERM; sleep %s2; sleep %s3\" &); trap 'exit 6' TERM; while :; do sleep 0.1; done", mark, mark, mark))
		running := func() string { return n.Exec(t, other, "sh", "-c", "ps -o args | grep '[s]leep "+mark+"' | wc -l") }
		harness.Eventually(t, harness.Patience, "its processes are there", func() bool { return strings.TrimSpace(running()) >= "2" })
		if err := n.Runtime.StopContainer(t.Context(), id, 10); err != nil {
			t.Fatal(err)
		}
		if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_EXITED || s.ExitCode != 6 {
			t.Errorf("%v", s)
		}
		harness.Eventually(t, harness.Patience, "all of them are gone", func() bool { return strings.TrimSpace(running()) == "0" })
		if s := n.Status(t, other); s.State != rt.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the other container of the pod: %v", s)
		}
	}
}
