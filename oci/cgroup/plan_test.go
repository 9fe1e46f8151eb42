package cgroup

import (
	"errors"
	"io/fs"
	"slices"
	"testing"
)

func ptr[T any](v T) *T { return &v }

// kernel is what a plan is made against: controllers and present file texts.
type kernel struct {
	v2    []string
	v1    []string
	files map[string]string
}

func (k kernel) plan(r *Resources) ([]string, error) {
	p := planner{
		has: func(c string) (bool, bool) {
			if slices.Contains(k.v2, c) {
				return true, true
			}
			return false, slices.Contains(k.v1, c)
		},
		read: func(_, file string) string { return k.files[file] },
	}
	writes, err := p.plan(r)
	var lines []string
	for _, w := range writes {
		lines = append(lines, w.file+"="+w.value)
	}
	return lines, err
}

func unified(files map[string]string) kernel {
	return kernel{v2: []string{unifiedName, "cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma", "misc"}, files: files}
}

func legacy(files map[string]string) kernel {
	return kernel{v1: []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "net_cls", "net_prio"}, files: files}
}

const noLimitV1 = "9223372036854771712"

func TestPlan(t *testing.T) {
	t.Parallel()
	memory := func(limit, swap int64) *Resources {
		m := &Memory{Limit: &limit, Swap: &swap}
		return &Resources{Memory: m}
	}
	v1mem := func(limit, both string) kernel {
		return legacy(map[string]string{"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": both})
	}
	const lim, both = "memory.limit_in_bytes=", "memory.memsw.limit_in_bytes="
	for _, c := range []struct {
		name string
		k    kernel
		r    *Resources
		want []string
	}{
		{"nothing", unified(nil), &Resources{}, nil},
		{"v1 fresh", v1mem(noLimitV1, noLimitV1), memory(100, 100), []string{lim + "100", both + "100"}},
		{"v1 raise", v1mem("100", "100"), memory(200, 200), []string{both + "200", lim + "200"}},
		{"v1 lower", v1mem("200", "200"), memory(100, 100), []string{lim + "100", both + "100"}},
		{"v1 raise within swap", v1mem("100", "300"), memory(200, 250), []string{lim + "200", both + "250"}},
		{"v1 unlimit", v1mem("100", "100"), memory(-1, -1), []string{both + "-1", lim + "-1"}},
		{"v1 memory alone above swap", v1mem("100", "100"), &Resources{Memory: &Memory{Limit: ptr[int64](200)}}, []string{both + "200", lim + "200"}},
		{"v1 memory alone below swap", v1mem("200", "200"), &Resources{Memory: &Memory{Limit: ptr[int64](100)}}, []string{lim + "100"}},
		{"v1 oom killer stays", legacy(map[string]string{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0"}),
			&Resources{Memory: &Memory{DisableOOMKiller: ptr(false)}}, nil},
		{"v1 kernel memory", legacy(nil), &Resources{Memory: &Memory{Kernel: ptr[int64](9), UseHierarchy: ptr(false)}},
			[]string{"memory.kmem.limit_in_bytes=9", "memory.use_hierarchy=0"}},
		{"v1 no kernel memory limit", legacy(nil), &Resources{Memory: &Memory{Kernel: ptr[int64](-1)}}, nil},
		{"v2 no swap", unified(nil), memory(100, 100), []string{"memory.swap.max=0", "memory.max=100"}},
		{"v2 swap", unified(nil), memory(100, 150), []string{"memory.swap.max=50", "memory.max=100"}},
		{"v2 no limits", unified(nil), memory(-1, -1), []string{"memory.swap.max=max", "memory.max=max"}},
		{"v2 swap from present limit", unified(map[string]string{"memory.max": "100"}),
			&Resources{Memory: &Memory{Swap: ptr[int64](130), Reservation: ptr[int64](50)}}, []string{"memory.swap.max=30", "memory.low=50"}},
		{"v2 cpu", unified(map[string]string{"cpu.max": "max 100000"}),
			&Resources{CPU: &CPU{Shares: ptr[uint64](1024), Quota: ptr[int64](50000), Period: ptr[uint64](0), Cpus: "0-1", Mems: "0"}},
			[]string{"cpu.weight=100", "cpu.max=50000 100000", "cpuset.cpus=0-1", "cpuset.mems=0"}},
		{"v2 period alone", unified(map[string]string{"cpu.max": "5000 100000"}), &Resources{CPU: &CPU{Period: ptr[uint64](50000)}}, []string{"cpu.max=5000 50000"}},
		{"v2 quota off", unified(map[string]string{"cpu.max": "5000 50000"}), &Resources{CPU: &CPU{Quota: ptr[int64](-1)}}, []string{"cpu.max=max 50000"}},
		{"v2 burst rises", unified(map[string]string{"cpu.max": "5000 50000", "cpu.max.burst": "0"}),
			&Resources{CPU: &CPU{Quota: ptr[int64](9000), Burst: ptr[uint64](8000)}}, []string{"cpu.max=9000 50000", "cpu.max.burst=8000"}},
		{"v2 burst falls", unified(map[string]string{"cpu.max": "9000 50000", "cpu.max.burst": "8000"}),
			&Resources{CPU: &CPU{Quota: ptr[int64](5000), Burst: ptr[uint64](1000)}}, []string{"cpu.max.burst=1000", "cpu.max=5000 50000"}},
		{"v2 idle", unified(nil), &Resources{CPU: &CPU{Idle: ptr[int64](1), Shares: ptr[uint64](2)}}, []string{"cpu.idle=1"}},
		{"v1 period grows", legacy(map[string]string{"cpu.cfs_period_us": "50000"}),
			&Resources{CPU: &CPU{Quota: ptr[int64](10000), Period: ptr[uint64](100000)}}, []string{"cpu.cfs_period_us=100000", "cpu.cfs_quota_us=10000"}},
		{"v1 period shrinks", legacy(map[string]string{"cpu.cfs_period_us": "100000"}),
			&Resources{CPU: &CPU{Quota: ptr[int64](10000), Period: ptr[uint64](50000)}}, []string{"cpu.cfs_quota_us=10000", "cpu.cfs_period_us=50000"}},
		{"v1 shares 0 is unset", legacy(nil), &Resources{CPU: &CPU{Shares: ptr[uint64](0), Quota: ptr[int64](0)}}, nil},
		{"pids", unified(nil), &Resources{Pids: &Pids{Limit: ptr[int64](-1)}}, []string{"pids.max=max"}},
		{"hugetlb v2", unified(nil), &Resources{HugepageLimits: []HugepageLimit{{"2MB", 4 << 20}}},
			[]string{"hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"}},
		{"hugetlb v1", kernel{v1: []string{"hugetlb", "memory"}}, &Resources{HugepageLimits: []HugepageLimit{{"1GB", 0}}},
			[]string{"hugetlb.1GB.limit_in_bytes=0", "hugetlb.1GB.rsvd.limit_in_bytes=0"}},
		{"io v2", unified(map[string]string{"io.bfq.weight": "default 100"}), &Resources{BlockIO: &BlockIO{Weight: ptr[uint16](10),
			ThrottleReadBpsDevice:   []ThrottleDevice{{8, 0, 1000}},
			ThrottleWriteIOPSDevice: []ThrottleDevice{{8, 0, 0}}}}, []string{"io.bfq.weight=10", "io.max=8:0 rbps=1000", "io.max=8:0 wiops=max"}},
		{"io v2 without bfq", unified(map[string]string{"io.weight": "default 100"}), &Resources{BlockIO: &BlockIO{Weight: ptr[uint16](1000)}}, []string{"io.weight=10000"}},
		{"io v1", legacy(map[string]string{"blkio.bfq.weight": "100"}), &Resources{BlockIO: &BlockIO{Weight: ptr[uint16](500),
			ThrottleReadBpsDevice: []ThrottleDevice{{8, 16, 7}}}}, []string{"blkio.bfq.weight=500", "blkio.throttle.read_bps_device=8:16 7"}},
		{"rdma", unified(nil), &Resources{Rdma: map[string]Rdma{"mlx": {HcaHandles: ptr[uint32](1), HcaObjects: ptr[uint32](2)}}}, []string{"rdma.max=mlx hca_handle=1 hca_object=2"}},
		{"net", legacy(nil), &Resources{Network: &Network{ClassID: ptr[uint32](5), Priorities: []InterfacePriority{{"eth0", 3}}}},
			[]string{"net_cls.classid=5", "net_prio.ifpriomap=eth0 3"}},
		{"unified last", unified(nil), &Resources{Unified: map[string]string{"memory.max": "7", "cgroup.max.depth": "2"}, Memory: &Memory{Limit: ptr[int64](100)}},
			[]string{"memory.max=100", "cgroup.max.depth=2", "memory.max=7"}},
	} {
		got, err := c.k.plan(c.r)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestPlanRefused(t *testing.T) {
	t.Parallel()
	used := map[string]string{"memory.current": "500", "memory.usage_in_bytes": "500"}
	low := &Resources{Memory: &Memory{Limit: ptr[int64](100), CheckBeforeUpdate: ptr(true)}}
	for _, c := range []struct {
		name string
		k    kernel
		r    *Resources
		want error
	}{
		{"v2 below usage", unified(used), low, fs.ErrInvalid},
		{"v1 below usage", legacy(used), low, fs.ErrInvalid},
		{"v2 swap below memory", unified(nil), &Resources{Memory: &Memory{Limit: ptr[int64](100), Swap: ptr[int64](50)}}, fs.ErrInvalid},
		{"v2 swap without memory", unified(map[string]string{"memory.max": "max"}), &Resources{Memory: &Memory{Swap: ptr[int64](50)}}, fs.ErrInvalid},
		{"unified with a slash", unified(nil), &Resources{Unified: map[string]string{"../memory.max": "1"}}, fs.ErrInvalid},
		{"unified without a controller", unified(nil), &Resources{Unified: map[string]string{"tasks": "1"}}, fs.ErrInvalid},
		{"unified on v1", legacy(nil), &Resources{Unified: map[string]string{"memory.max": "1"}}, errors.ErrUnsupported},
		{"realtime on v2", unified(nil), &Resources{CPU: &CPU{RealtimeRuntime: ptr[int64](1)}}, errors.ErrUnsupported},
		{"weightDevice without weight", legacy(nil), &Resources{BlockIO: &BlockIO{WeightDevice: []WeightDevice{{Major: 8}}}}, fs.ErrInvalid},
		{"page size", unified(nil), &Resources{HugepageLimits: []HugepageLimit{{"../x", 1}}}, fs.ErrInvalid},
	} {
		if _, err := c.k.plan(c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestWeight(t *testing.T) {
	t.Parallel()
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 100: 17, 1024: 100, 2048: 174, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

func TestParseMounts(t *testing.T) {
	t.Parallel()
	const head = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
	const cpu = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
	const named = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
	const two = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
	const only = "35 25 0:30 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	const elsewhere = "99 25 0:30 / /run/x/cgroup rw - cgroup2 cgroup2 rw\n" + "98 25 0:29 / /run/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
	for _, c := range []struct {
		text  string
		mode  Mode
		trees int
	}{
		{elsewhere + head + cpu + named, Legacy, 2},
		{elsewhere + head + cpu + cpu + named + two, Hybrid, 3},
		{elsewhere + only + only, Unified, 1},
		{elsewhere, Legacy, 0},
		{"garbage\n- -\n", Legacy, 0},
	} {
		l := parseMounts(c.text)
		if l.mode != c.mode || len(l.trees) != c.trees {
			t.Errorf("%q: %v, %+v", c.text, l.mode, l.trees)
		}
		if l.mode == Hybrid && (l.tree("cpuacct") == nil || l.tree("cpuacct") != l.tree("cpu") || l.tree("name=systemd") == nil) {
			t.Errorf("co-mounted controllers: %+v", l.trees)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("31 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n")
	f.Fuzz(func(t *testing.T, text string) { parseMounts(text) })
}
