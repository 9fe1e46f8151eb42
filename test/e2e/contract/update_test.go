package contract

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

func updater(t *testing.T, n *harness.Node, id string) func(*rt.LinuxContainerResources) error {
	return func(r *rt.LinuxContainerResources) error {
		return n.Runtime.UpdateContainerResources(t.Context(), id, &rt.ContainerResources{Linux: r})
	}
}

// An update of which one value is refused leaves the kernel with what it had, of every controller, and status with it.
func TestUpdateIsTransaction(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("transaction", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Linux.Resources = &rt.LinuxContainerResources{CpuShares: 2048, CpuPeriod: 50000, CpuQuota: 20000, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0"}
	id := p.Start(cfg)
	update, pid := updater(t, n, id), pidOf(t, n, id)
	had := map[string]string{"cpu cpu.shares": "2048", "cpu cpu.cfs_period_us": "50000", "cpu cpu.cfs_quota_us": "20000", "memory memory.limit_in_bytes": "67108864",
		"memory memory.memsw.limit_in_bytes?": "67108864", "cpuset cpuset.cpus": "0"}
	if cgroupV2() {
		had = map[string]string{"cpu cpu.weight": "174", "cpu cpu.max": "20000 50000", "memory memory.max": "67108864", "memory memory.swap.max?": "0", "cpuset cpuset.cpus": "0"}
	}
	limits(t, pid, had)
	all := func() *rt.LinuxContainerResources {
		return &rt.LinuxContainerResources{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 30000, MemoryLimitInBytes: 128 << 20, MemorySwapLimitInBytes: 128 << 20}
	}
	for what, spoil := range map[string]func(*rt.LinuxContainerResources){
		"processor that is not there":   func(r *rt.LinuxContainerResources) { r.CpusetCpus = "4000" },
		"memory node that is not there": func(r *rt.LinuxContainerResources) { r.CpusetMems = "63" },
		"quota below the least":         func(r *rt.LinuxContainerResources) { r.CpuQuota = 1 },
		"period beyond the most":        func(r *rt.LinuxContainerResources) { r.CpuPeriod = 2_000_000 },
		"swap below memory":             func(r *rt.LinuxContainerResources) { r.MemorySwapLimitInBytes = 1 << 20 },
		"negative memory":               func(r *rt.LinuxContainerResources) { r.MemoryLimitInBytes = -5 },
		"page size that is none":        func(r *rt.LinuxContainerResources) { r.HugepageLimits = []*rt.HugepageLimit{{PageSize: "two"}} },
	} {
		r := all()
		spoil(r)
		if err := update(r); err == nil {
			t.Errorf("%s was taken", what)
		}
		limits(t, pid, had)
		if got := n.Status(t, id).GetResources().GetLinux(); got.GetCpuShares() != 2048 || got.GetCpuQuota() != 20000 || got.GetMemoryLimitInBytes() != 64<<20 || got.GetCpusetCpus() != "0" || got.GetCpusetMems() != "" {
			t.Errorf("after %s status tells %v", what, got)
		}
	}
	// The same twice is no error, and every field can be changed at once.
	for range 2 {
		r := all()
		r.CpusetMems = "0"
		if err := update(r); err != nil {
			t.Fatal(err)
		}
	}
	if cgroupV2() {
		limits(t, pid, map[string]string{"cpu cpu.weight": "59", "cpu cpu.max": "30000 100000", "memory memory.max": "134217728", "cpuset cpuset.mems": "0"})
	} else {
		limits(t, pid, map[string]string{"cpu cpu.shares": "512", "cpu cpu.cfs_quota_us": "30000", "memory memory.limit_in_bytes": "134217728", "cpuset cpuset.mems": "0"})
	}
}

// A memory limit below what is in use and can't be given back is refused, and kills nobody. What can be given back is: page cache.
func TestUpdateBelowUse(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("below", n.Dir))
	cfg := harness.Command("c", "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo ready; while :; do sleep 1; done")
	cfg.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 256 << 20}
	id := p.Start(cfg)
	harness.Eventually(t, harness.Patience, "it has its memory", func() bool { return p.Log("c.log", "stdout") == "ready\n" })
	update := updater(t, n, id)
	if err := update(&rt.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}); err == nil {
		t.Error("16 MiB were taken for a process that has 40 MB")
	}
	if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING || s.GetResources().GetLinux().GetMemoryLimitInBytes() != 256<<20 {
		t.Errorf("%v, limit %d", s.State, s.GetResources().GetLinux().GetMemoryLimitInBytes())
	}
	file := "memory memory.limit_in_bytes"
	if cgroupV2() {
		file = "memory memory.max"
	}
	limits(t, pidOf(t, n, id), map[string]string{file: strconv.Itoa(256 << 20)})
	n.Exec(t, id, "sh", "-c", "head -c 60000000 /dev/zero >/cache; cat /cache >/dev/null; rm /cache")
	if err := update(&rt.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}); err != nil {
		t.Errorf("96 MiB: %v", err)
	}
	if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING {
		t.Error(s.State)
	}
}

// Updates of different fields by many at once are all in force in the end.
func TestUpdateByMany(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("many", n.Dir))
	id := p.Start(harness.Command("c", "sleep 1000"))
	update := updater(t, n, id)
	var all sync.WaitGroup
	for _, last := range []*rt.LinuxContainerResources{
		{CpuShares: 777}, {CpuQuota: 30000, CpuPeriod: 60000}, {MemoryLimitInBytes: 99 << 20}, {CpusetMems: "0"},
	} {
		all.Go(func() {
			for range 5 {
				if err := update(last); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	r := n.Status(t, id).GetResources().GetLinux()
	if r.GetCpuShares() != 777 || r.GetCpuQuota() != 30000 || r.GetCpuPeriod() != 60000 || r.GetMemoryLimitInBytes() != 99<<20 || r.GetCpusetMems() != "0" {
		t.Errorf("in force: %v", r)
	}
}

// A container that was not started can be updated; one that has ended can't. The values survive the daemon.
func TestUpdateStates(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("states", n.Dir))
	id := p.Create(harness.Command("c", "while [ ! -e /go ]; do sleep 0.05; done"))
	update := updater(t, n, id)
	if err := update(&rt.LinuxContainerResources{CpuShares: 333, MemoryLimitInBytes: 88 << 20}); err != nil {
		t.Errorf("created: %v", err)
	}
	if _, err := n.Runtime.UpdatePodSandboxResources(t.Context(), &rt.UpdatePodSandboxResourcesRequest{PodSandboxId: p.ID, Resources: &rt.LinuxContainerResources{CpuShares: 444}}); err != nil {
		t.Error(err)
	}
	if err := n.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := n.Runtime.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if r := n.Status(t, id).GetResources().GetLinux(); r.GetCpuShares() != 333 || r.GetMemoryLimitInBytes() != 88<<20 {
		t.Errorf("in force after a restart of the daemon: %v", r)
	}
	if s, err := n.Runtime.PodSandboxStatus(t.Context(), p.ID, true); err != nil || !strings.Contains(strings.Join([]string{s.Info["info"], s.Info["resources"]}, ""), "444") {
		t.Errorf("the pod's resources are forgotten: %v, %v", s.GetInfo(), err)
	}
	n.Exec(t, id, "touch", "/go")
	n.Exited(t, id)
	if err := update(&rt.LinuxContainerResources{CpuShares: 1024}); err == nil || !strings.Contains(err.Error(), "FailedPrecondition") {
		t.Errorf("ended: %v", err)
	}
}

// OOMKilled is said of a container that ended because its memory, or its pod's, ran out; not of one that lost a child and went on.
func TestOOMLevels(t *testing.T) {
	n := harness.Get(t)
	const eat = "dd if=/dev/zero of=/dev/null bs=80M"
	p := n.Run(t, harness.PodConfig("oom", n.Dir))
	own := harness.Command("own", "exec "+eat)
	own.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}
	if s := n.Exited(t, p.Start(own)); s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("beyond its own limit: %q, %d", s.Reason, s.ExitCode)
	}
	child := harness.Command("child", eat+" || echo lost; exit 0")
	child.Linux.Resources = own.Linux.Resources
	if s := n.Exited(t, p.Start(child)); s.Reason != "Completed" || s.ExitCode != 0 || p.Log("child.log", "stdout") != "lost\n" {
		t.Errorf("a child was killed: %q, %d, %q", s.Reason, s.ExitCode, p.Log("child.log", "stdout"))
	}
	if s := n.Exited(t, p.Start(harness.Command("own137", "exit 137"))); s.Reason != "Error" || s.ExitCode != 137 {
		t.Errorf("its own 137, with memory enough: %q, %d", s.Reason, s.ExitCode)
	}
	// The pod's cgroup is its client's to limit.
	cfg := harness.PodConfig("podoom", n.Dir)
	cfg.Linux.CgroupParent = filepath.Join(cfg.Linux.CgroupParent, "limited")
	dir, file, swap := "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	if cgroupV2() {
		dir, file, swap = "/sys/fs/cgroup", "memory.max", "memory.swap.max"
	}
	if c, err := n.Runtime.RuntimeConfig(t.Context()); err != nil || c.GetLinux().GetCgroupDriver() == rt.CgroupDriver_SYSTEMD {
		t.Skipf("the slice of a pod is systemd's to make and to limit: %v", err)
	}
	q := n.Run(t, cfg)
	dir += cfg.Linux.CgroupParent
	if err := os.WriteFile(filepath.Join(dir, file), []byte("33554432"), 0); err != nil {
		t.Fatal(err)
	}
	limit := "33554432"
	if cgroupV2() {
		limit = "0"
	}
	os.WriteFile(filepath.Join(dir, swap), []byte(limit), 0) // missing without swap accounting
	if s := n.Exited(t, q.Start(harness.Command("eats", "exec "+eat))); s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("beyond the pod's limit: %q, %d", s.Reason, s.ExitCode)
	}
}

// However much is in a writable layer, no request for stats or metrics looks at it: only the sampler does, now and then.
func TestStatsWalkNothing(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("walk", n.Dir))
	id := p.Start(harness.Command("c", "mkdir /tree; touch /tree/x; sleep 1000"))
	harness.Eventually(t, harness.Patience, "the tree", func() bool { return strings.Contains(n.Exec(t, id, "ls", "/tree"), "x") })
	in, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(in)
	upper := filepath.Join(n.Root, "pods", p.ID, "c", id, "upper")
	for _, dir := range []string{upper, filepath.Join(upper, "tree")} {
		if _, err := unix.InotifyAddWatch(in, dir, unix.IN_OPEN|unix.IN_ONLYDIR); err != nil {
			t.Fatal(err)
		}
	}
	const rounds = 100
	for range rounds {
		_, err1 := n.Runtime.ListContainerStats(t.Context(), nil)
		_, err2 := n.Runtime.ListPodSandboxStats(t.Context(), nil)
		_, err3 := n.Runtime.ListPodSandboxMetrics(t.Context())
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(err1, err2, err3)
		}
	}
	opens, buf := 0, make([]byte, 64<<10)
	for {
		got, err := unix.Read(in, buf)
		if err != nil || got <= 0 {
			break
		}
		opens += got / unix.SizeofInotifyEvent // at least this many
	}
	if opens >= rounds {
		t.Errorf("%d times something of the writable layer was opened during %d rounds of requests", opens, rounds)
	}
	if os.WriteFile(filepath.Join(upper, "tree", "probe"), nil, 0o600) != nil {
		t.Error("the watch was on nothing")
	}
	if _, err := unix.Read(in, buf); err != nil {
		t.Errorf("the watch sees nothing: %v", err)
	}
}
