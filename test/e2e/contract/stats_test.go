package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// busy is a container that uses something of everything.
func busy(t *testing.T, n *harness.Node, p *harness.Pod) string {
	cfg := harness.Command("busy", "(sleep 1000 &); x=$(head -c 8000000 /dev/zero | tr '\\0' x); head -c 3000000 /dev/zero >/written; while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.05; done")
	cfg.Linux.Resources = &rt.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 256 << 20,
		HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MB"}}}
	id := p.Start(cfg)
	harness.Eventually(t, harness.Patience, "it is busy", func() bool {
		s, err := n.Runtime.ContainerStats(t.Context(), id)
		return err == nil && s.Memory.RssBytes.GetValue() > 7<<20 && s.Cpu.UsageCoreNanoSeconds.GetValue() > 1e7 && s.Cpu.UsageNanoCores != nil
	})
	return id
}

// Values, and no pointer nil that kubelet follows.
func TestStats(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("stats", n.Dir))
	id := busy(t, n, p)
	s, err := n.Runtime.ContainerStats(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixNano()
	for what, at := range map[string]int64{"cpu": s.Cpu.Timestamp, "memory": s.Memory.Timestamp, "swap": s.Swap.Timestamp, "writable layer": s.WritableLayer.Timestamp} {
		if at > now || at < now-int64(time.Minute) {
			t.Errorf("time of %s is %d", what, at)
		}
	}
	switch m := s.Memory; {
	case s.Attributes.GetMetadata().GetName() != "busy" || s.Attributes.Id != id || s.Attributes.Labels["name"] != "busy":
		t.Errorf("attributes %v", s.Attributes)
	case m.WorkingSetBytes.Value > m.UsageBytes.Value, m.WorkingSetBytes.Value < 7<<20, m.PageFaults.Value == 0, m.MajorPageFaults == nil:
		t.Errorf("memory %v", m)
	case m.AvailableBytes.GetValue()+m.WorkingSetBytes.Value != 256<<20:
		t.Errorf("available %v with a limit of 256 MiB and a working set of %v", m.AvailableBytes, m.WorkingSetBytes)
	case s.WritableLayer.FsId.GetMountpoint() == "" || s.WritableLayer.UsedBytes == nil || s.WritableLayer.InodesUsed == nil:
		t.Errorf("writable layer %v", s.WritableLayer)
	}
	for what, f := range map[string]*rt.ContainerStatsFilter{"id": {Id: id[:20]}, "pod": {PodSandboxId: p.ID}, "labels": {LabelSelector: map[string]string{"name": "busy"}}} {
		if l, err := n.Runtime.ListContainerStats(t.Context(), f); err != nil || len(l) != 1 || l[0].Attributes.Id != id {
			t.Errorf("list by %s: %v, %v", what, l, err)
		}
	}
	if l, err := n.Runtime.ListContainerStats(t.Context(), &rt.ContainerStatsFilter{PodSandboxId: p.ID, LabelSelector: map[string]string{"name": "other"}}); err != nil || len(l) != 0 {
		t.Errorf("filters are not ANDed: %v, %v", l, err)
	}
	if _, err := n.Runtime.ContainerStats(t.Context(), strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("unknown container: %v", err)
	}
}

func TestPodStats(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("podstats", n.Dir))
	id := busy(t, n, p)
	n.Exec(t, id, "sh", "-c", "ping -c 1 127.0.0.1 >/dev/null; ping -c 1 $(ip -4 addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p') >/dev/null; true")
	s, err := n.Runtime.PodSandboxStats(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	l := s.Linux
	switch {
	case s.Attributes.GetMetadata().GetUid() != p.Config.Metadata.Uid:
		t.Errorf("attributes %v", s.Attributes)
	case l == nil || l.Cpu.UsageCoreNanoSeconds.GetValue() == 0 || l.Memory.WorkingSetBytes.GetValue() == 0:
		t.Errorf("%v", l)
	case l.Network.GetDefaultInterface().GetName() != "eth0" || l.Network.DefaultInterface.RxBytes == nil || l.Network.DefaultInterface.TxErrors == nil:
		t.Errorf("network %v", l.Network)
	case slices.ContainsFunc(l.Network.Interfaces, func(i *rt.NetworkInterfaceUsage) bool { return i.Name == "eth0" || i.Name == "lo" }):
		t.Errorf("the default interface or lo is listed again: %v", l.Network.Interfaces)
	case l.Process.GetProcessCount().GetValue() < 1:
		t.Errorf("processes %v", l.Process)
	case len(l.Containers) != 1 || l.Containers[0].Attributes.Id != id:
		t.Errorf("containers %v", l.Containers)
	}
	if err := n.Runtime.StopPodSandbox(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	if list, err := n.Runtime.ListPodSandboxStats(t.Context(), &rt.PodSandboxStatsFilter{Id: p.ID}); err != nil || len(list) != 0 {
		t.Errorf("a stopped pod is listed: %v, %v", list, err)
	}
}

// Swap that a container is allowed is used, bounded and told, of it and of its pod.
func TestSwap(t *testing.T) {
	n := harness.Get(t)
	if b, err := os.ReadFile("/proc/swaps"); err != nil || strings.Count(string(b), "\n") < 2 || !cgroupV2() {
		t.Skip("needs a host with cgroup v2 and swap")
	}
	p := n.Run(t, harness.PodConfig("swap", n.Dir))
	cfg := harness.Command("c", "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo up; sleep 1000")
	cfg.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 24 << 20, MemorySwapLimitInBytes: 120 << 20}
	id := p.Start(cfg)
	limits(t, pidOf(t, n, id), map[string]string{"memory memory.max": fmt.Sprint(24 << 20), "memory memory.swap.max": fmt.Sprint(96 << 20)})
	harness.Eventually(t, harness.Patience, "swap is used", func() bool {
		c, err := n.Runtime.ContainerStats(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		used := c.Swap.SwapUsageBytes.GetValue()
		if used > 0 && c.Swap.SwapAvailableBytes.GetValue()+used != 96<<20 {
			t.Fatalf("swap %v of 96 MiB", c.Swap)
		}
		s, err := n.Runtime.PodSandboxStats(t.Context(), p.ID)
		return err == nil && used > 8<<20 && s.Linux.GetContainers()[0].Swap.SwapUsageBytes.GetValue() > 8<<20
	})
	if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING {
		t.Errorf("%v", s)
	}
	none := harness.Command("none", "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo up; sleep 1000")
	none.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 24 << 20}
	killed := p.Start(none)
	harness.Eventually(t, harness.Patience, "who may not swap is killed", func() bool {
		return n.Status(t, killed).State == rt.ContainerState_CONTAINER_EXITED
	})
	if s := n.Status(t, killed); s.Reason != "OOMKilled" {
		t.Errorf("%v", s)
	}
}

// Pressure is what the kernel says in the cgroups, of pods and of containers; swap is told where it is accounted.
func TestPressure(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	if _, err := os.ReadFile("/proc/pressure/cpu"); err != nil {
		t.Skipf("this kernel keeps no pressure: %v", err)
	}
	p := n.Run(t, harness.PodConfig("pressure", n.Dir))
	id := busy(t, n, p)
	dir := cgroupV2Of(t, pidOf(t, n, id))
	total := func(dir, resource string) uint64 {
		b, err := os.ReadFile(filepath.Join(dir, resource+".pressure"))
		if err != nil {
			t.Fatal(err)
		}
		var sum uint64
		for f := range strings.FieldsSeq(string(b)) { // of some and of full
			if v, ok := strings.CutPrefix(f, "total="); ok {
				us, _ := strconv.ParseUint(v, 10, 64)
				sum += us * 1000
			}
		}
		return sum
	}
	kinds := []string{"cpu", "memory", "io"}
	read := func() (sums []uint64) {
		for _, d := range []string{filepath.Dir(dir), dir} {
			for _, k := range kinds {
				sums = append(sums, total(d, k))
			}
		}
		return sums
	}
	before := read()
	s, err := n.Runtime.PodSandboxStats(t.Context(), p.ID)
	if err != nil || len(s.Linux.Containers) != 1 {
		t.Fatalf("%v, %v", s, err)
	}
	after, c := read(), s.Linux.Containers[0]
	for i, psi := range []*rt.PsiStats{s.Linux.Cpu.Psi, s.Linux.Memory.Psi, s.Linux.Io.GetPsi(), c.Cpu.Psi, c.Memory.Psi, c.Io.GetPsi()} {
		if psi == nil || psi.Some == nil || psi.Full == nil {
			t.Errorf("no pressure of %s: %v", kinds[i%3], psi)
		} else if got := psi.Some.Total + psi.Full.Total; got < before[i] || got > after[i] {
			t.Errorf("pressure of %s is %d, the kernel says %d to %d", kinds[i%3], got, before[i], after[i])
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "memory.swap.current")); err == nil && c.Swap.GetSwapUsageBytes() == nil {
		t.Errorf("swap %v", c.Swap)
	}
}

// cgroupV2Of is the directory of a process's cgroup in the cgroup2 hierarchy, by itself or beside v1.
func cgroupV2Of(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, path, ok := strings.Cut(string(b), "0::")
	if !ok {
		t.Skip("this host has no cgroup2 hierarchy, and pressure is told there only")
	}
	path, _, _ = strings.Cut(path, "\n")
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(top + path + "/cpu.pressure"); err == nil {
			return top + path
		}
	}
	t.Skip("pressure is off in this host's cgroups")
	return ""
}

// Every metric is described, has a value and as many labels as described, and says what the container does.
func TestMetrics(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("metrics", n.Dir))
	id := busy(t, n, p)
	descriptors, err := n.Runtime.ListMetricDescriptors(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range descriptors {
		keys[d.Name] = d.LabelKeys
	}
	if len(keys) != 58 || len(descriptors) != 58 {
		t.Errorf("%d descriptors of %d names", len(descriptors), len(keys))
	}
	var pod, ctr map[string]uint64
	read := func() {
		list, err := n.Runtime.ListPodSandboxMetrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(m *rt.PodSandboxMetrics) bool { return m.PodSandboxId == p.ID })
		if i < 0 || len(list[i].ContainerMetrics) != 1 || list[i].ContainerMetrics[0].ContainerId != id {
			t.Fatalf("metrics of %d pods, this one at %d", len(list), i)
		}
		pod, ctr = values(t, keys, list[i].Metrics), values(t, keys, list[i].ContainerMetrics[0].Metrics)
	}
	harness.Eventually(t, harness.Patience, "processes are counted", func() bool {
		read()
		return ctr["processes"] > 0
	})
	for k, atLeast := range map[string]uint64{"memory_rss": 7 << 20, "memory_usage_bytes": 8 << 20, "memory_max_usage_bytes": 8 << 20, "memory_working_set_bytes": 7 << 20,
		"memory_failures_total pgfault hierarchy": 100, "processes": 2, "threads": 2, "file_descriptors": 4, "ulimits_soft max_open_files": 1, "cpu_cfs_periods_total": 1,
		"last_seen": uint64(time.Now().Unix() - 60), "start_time_seconds": uint64(time.Now().Unix() - 120), "spec_cpu_quota": 50000, "spec_cpu_period": 100000, "spec_memory_limit_bytes": 256 << 20} {
		if ctr[k] < atLeast {
			t.Errorf("%s is %d, want at least %d", k, ctr[k], atLeast)
		}
	}
	if ctr["spec_cpu_shares"] != 512 {
		t.Errorf("shares %d", ctr["spec_cpu_shares"])
	}
	if _, ok := pod["network_receive_bytes_total eth0"]; !ok {
		t.Errorf("no network of the pod in %v", pod)
	}
	if pod["memory_usage_bytes"] < ctr["memory_rss"] {
		t.Errorf("the pod uses %d, its container %d", pod["memory_usage_bytes"], ctr["memory_rss"])
	}
	if cgroupV2() {
		familiesV2(t, cgroupOf(t, pidOf(t, n, id), ""), func() map[string]uint64 { read(); return ctr })
	}
	stream, err := n.Raw.StreamPodSandboxMetrics(t.Context(), &rt.StreamPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || len(m.PodSandboxMetrics) == 0 {
		t.Errorf("stream: %v, %v", m, err)
	}
}

// values checks metrics as kubelet does, and gives each by its name and own labels.
func values(t *testing.T, keys map[string][]string, list []*rt.Metric) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	for _, m := range list {
		want, ok := keys[m.Name]
		if !ok || len(want) != len(m.LabelValues) || m.Value == nil || m.Timestamp < 0 {
			t.Fatalf("metric %v for label keys %q", m, want)
		}
		out[strings.Join(append([]string{strings.TrimPrefix(m.Name, "container_")}, m.LabelValues[5:]...), " ")] = m.Value.Value
	}
	return out
}

// familiesV2 compares each family that is read from cgroup v2 with its file: counters lie between two looks at it, of what goes
// up and down a look may come between.
func familiesV2(t *testing.T, dir string, read func() map[string]uint64) {
	t.Helper()
	file := func(name, key string) uint64 {
		text, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			f := strings.Fields(l)
			var n uint64
			if key == "" || f[0] == key {
				fmt.Sscan(f[len(f)-1], &n)
				return n
			}
		}
		t.Fatalf("no %s in %s", key, name)
		return 0
	}
	const second, micro = 1e6, 1
	for family, at := range map[string]struct {
		file, key string
		unit      uint64
	}{
		"cpu_user_seconds_total": {"cpu.stat", "user_usec", second}, "cpu_system_seconds_total": {"cpu.stat", "system_usec", second},
		"cpu_usage_seconds_total total": {"cpu.stat", "usage_usec", second}, "cpu_cfs_periods_total": {"cpu.stat", "nr_periods", micro},
		"cpu_cfs_throttled_periods_total": {"cpu.stat", "nr_throttled", micro}, "cpu_cfs_throttled_seconds_total": {"cpu.stat", "throttled_usec", second},
		"memory_max_usage_bytes?": {"memory.peak", "", 1}, "memory_failcnt": {"memory.events", "max", 1}, "oom_events_total": {"memory.events", "oom_kill", 1},
		"memory_failures_total pgfault hierarchy": {"memory.stat", "pgfault", 1}, "memory_failures_total pgmajfault hierarchy": {"memory.stat", "pgmajfault", 1},
	} {
		family, optional := strings.CutSuffix(family, "?") // of Linux 5.19
		if _, err := os.Stat(dir + "/" + at.file); err != nil && optional {
			continue
		}
		before := file(at.file, at.key) / at.unit
		got, ok := read()[family]
		if after := file(at.file, at.key) / at.unit; !ok || got < before || got > after {
			t.Errorf("%s is %d, %v; %s of %s is %d to %d", family, got, ok, at.key, at.file, before, after)
		}
	}
	for family, at := range map[string][2]string{"memory_cache": {"memory.stat", "file"}, "memory_rss": {"memory.stat", "anon"},
		"memory_kernel_usage": {"memory.stat", "kernel"}, "memory_mapped_file": {"memory.stat", "file_mapped"}, "memory_usage_bytes": {"memory.current", ""},
		"memory_total_active_file_bytes": {"memory.stat", "active_file"}, "memory_total_inactive_file_bytes": {"memory.stat", "inactive_file"},
		"memory_swap": {"memory.swap.current", ""}, "threads": {"pids.current", ""}, "threads_max": {"pids.max", ""}, "hugetlb_usage_bytes 2MB": {"hugetlb.2MB.current", ""}} {
		harness.Eventually(t, harness.Patience, family+" is what its file says", func() bool {
			want := file(at[0], at[1])
			got, ok := read()[family]
			return ok && got+1<<20 > want && got < want+1<<20
		})
	}
	for _, kind := range []string{"cpu", "memory", "io"} {
		for _, name := range []string{"stalled", "waiting"} {
			if _, ok := read()["pressure_"+kind+"_"+name+"_seconds_total"]; !ok {
				t.Errorf("no family of %s pressure, %s", kind, name)
			}
		}
	}
}

// A snapshot of metrics costs what its reads of the kernel's counters cost (docs/testing.md has the CPU time), so these are counted:
// each is 1 to 10 us. One more file a container is thousands more a minute on a full node, and a reason to raise this limit.
func TestMetricsCost(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	if testing.Short() {
		t.Skip("runs 10 pods")
	}
	const pods = 10
	for i := range pods {
		n.Run(t, harness.PodConfig(fmt.Sprintf("cost-%d", i), n.Dir)).Start(harness.Command("c", "sleep 1000"))
	}
	pid := n.Pid()
	huge := uint64(0) // a container's files of each page size
	if _, err := os.Stat("/sys/fs/cgroup/hugetlb"); err == nil || cgroupV2() {
		sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/*")
		huge = 2 * uint64(len(sizes))
	}
	for _, c := range []struct {
		name  string
		limit uint64 // reads a pod with one container
		call  func() error
	}{
		{"ListContainerStats", 11, func() error { _, err := n.Runtime.ListContainerStats(t.Context(), nil); return err }},
		{"ListPodSandboxStats", 22, func() error { _, err := n.Runtime.ListPodSandboxStats(t.Context(), nil); return err }},
		{"ListPodSandboxMetrics", 29 + huge, func() error { _, err := n.Runtime.ListPodSandboxMetrics(t.Context()); return err }},
	} {
		// The least of many: the daemon reads other things as well, but not all the time. The first opens the descriptors.
		least := ^uint64(0)
		for range 20 {
			before := reads(t, pid)
			if err := c.call(); err != nil {
				t.Fatal(err)
			}
			least = min(least, reads(t, pid)-before)
		}
		t.Logf("%s: %d reads for %d pods", c.name, least, pods)
		if limit := c.limit*pods + 20; least > limit || least < pods {
			t.Errorf("%s of %d pods makes %d reads, want at most %d", c.name, pods, least, limit)
		}
	}
}

// reads is syscr of proc_pid_io(5): how many read(2) and pread(2) the process has made.
func reads(t *testing.T, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "syscr: ")
	line, _, _ := strings.Cut(after, "\n")
	v, err := strconv.ParseUint(line, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}
