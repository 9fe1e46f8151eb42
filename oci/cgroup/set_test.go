package cgroup_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
)

func TestSet(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	if mode, _ := cgroup.Detect(); mode == cgroup.Unified {
		t.Skip("reads v1 files")
	}
	must := func(r *cgroup.Resources) {
		t.Helper()
		if err := g.Set(r); err != nil {
			t.Fatal(err)
		}
	}
	memory := func(limit, swap int64) *cgroup.Resources {
		return &cgroup.Resources{Memory: &cgroup.Memory{Limit: &limit, Swap: &swap}}
	}
	for _, mib := range []int64{64, 128, 32, -1, 48} {
		n := mib << 20
		if mib < 0 {
			n = -1
		}
		must(memory(n, n))
	}
	must(&cgroup.Resources{
		CPU:            &cgroup.CPU{Shares: ptr[uint64](512), Quota: ptr[int64](20000), Period: ptr[uint64](50000), Cpus: "0", Mems: "0"},
		Pids:           &cgroup.Pids{Limit: ptr[int64](77)},
		HugepageLimits: []cgroup.HugepageLimit{{Pagesize: "2MB"}, {Pagesize: "64KB"}},
	})
	for _, c := range [][3]string{
		{"memory", "memory.limit_in_bytes", "50331648"}, {"memory", "memory.memsw.limit_in_bytes", "50331648"},
		{"cpu", "cpu.shares", "512"}, {"cpu", "cpu.cfs_quota_us", "20000"}, {"cpu", "cpu.cfs_period_us", "50000"},
		{"cpuset", "cpuset.cpus", "0"}, {"pids", "pids.max", "77"},
	} {
		if got := readIn(t, g, c[0], c[1]); got != c[2] {
			t.Errorf("%s = %s, want %s", c[1], got, c[2])
		}
	}
}

// A limit of kernel memory is in force, or refused: kernels from 6.6 on take it without doing anything.
func TestSetKernelMemory(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	if mode, _ := cgroup.Detect(); mode == cgroup.Unified {
		t.Skip("reads v1 files")
	}
	for file, m := range map[string]*cgroup.Memory{"memory.kmem.limit_in_bytes": {Kernel: ptr[int64](48 << 20)}, "memory.kmem.tcp.limit_in_bytes": {KernelTCP: ptr[int64](48 << 20)}} {
		err := g.Set(&cgroup.Resources{Memory: m})
		if got := readIn(t, g, "memory", file); (err == nil) != (got == "50331648") || err != nil && !strings.Contains(err.Error(), file) {
			t.Errorf("%s is %s: %v", file, got, err)
		}
	}
}

// TestSetIsTransactional has the last of several limits refused.
func TestSetIsTransactional(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	if mode, _ := cgroup.Detect(); mode == cgroup.Unified {
		t.Skip("reads v1 files")
	}
	set := func(n int64, pids int64, cpus string) error {
		return g.Set(&cgroup.Resources{
			CPU:    &cgroup.CPU{Shares: ptr(uint64(n)), Cpus: cpus},
			Memory: &cgroup.Memory{Limit: ptr(n << 20), Swap: ptr(n << 20)},
			Pids:   &cgroup.Pids{Limit: &pids},
		})
	}
	if err := set(100, 10, "0"); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{50, 200} {
		err := set(n, 1<<40, "0") // more tasks than there can be
		if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "pids.max") {
			t.Errorf("Set: %v", err)
		}
		for _, c := range [][3]string{{"cpu", "cpu.shares", "100"}, {"memory", "memory.limit_in_bytes", "104857600"},
			{"memory", "memory.memsw.limit_in_bytes", "104857600"}, {"pids", "pids.max", "10"}} {
			if got := readIn(t, g, c[0], c[1]); got != c[2] {
				t.Errorf("after a refused Set %s = %s, want %s", c[1], got, c[2])
			}
		}
	}
}

func TestSetRefusals(t *testing.T) { // not parallel: changes the cgroup2 root for a while
	other := newGroup(t)
	mode, _ := cgroup.Detect()
	if mode == cgroup.Hybrid {
		keepControllers(t, strings.TrimSuffix(other.Dirs()[""], other.Path()))
	}
	g := newGroup(t)
	if mode == cgroup.Hybrid {
		err := g.Set(&cgroup.Resources{Unified: map[string]string{"hugetlb.3MB.max": "0"}})
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "hugetlb.3MB.max") {
			t.Errorf("unknown unified key: %v", err)
		}
		if err := g.Set(&cgroup.Resources{Unified: map[string]string{"cgroup.max.depth": "3"}}); err != nil {
			t.Errorf("unified key of the core: %v", err)
		}
	}
	spawn(t, g, "x=$(head -c 8M /dev/zero | tr '\\0' x); echo; sleep 1000")
	err := g.Set(&cgroup.Resources{Memory: &cgroup.Memory{Limit: ptr[int64](4096), CheckBeforeUpdate: ptr(true)}})
	if !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("limit below usage: %v", err)
	}
}

// TestEnable limits huge pages, whose controller a hybrid host has in its
// cgroup2 tree and off: it is turned on from the root down to the parent.
func TestEnable(t *testing.T) { // not parallel: changes the cgroup2 root for a while
	other := newGroup(t)
	root := strings.TrimSuffix(other.Dirs()[""], other.Path())
	if b, err := os.ReadFile(root + "/cgroup.controllers"); err != nil || !strings.Contains(string(b), "hugetlb") {
		t.Skip("needs the hugetlb controller in a cgroup2 tree")
	}
	keepControllers(t, root)
	g := newGroup(t)
	dir := g.Dirs()[""]
	want := map[string]string{"hugetlb.2MB.max": "4194304", "hugetlb.2MB.rsvd.max": "4194304"}
	unified := map[string]string{}
	if _, err := os.Stat("/sys/kernel/mm/hugepages/hugepages-1048576kB"); err == nil { // not every processor has these
		unified["hugetlb.1GB.max"], want["hugetlb.1GB.max"] = "0", "0"
	}
	if err := g.Set(&cgroup.Resources{HugepageLimits: []cgroup.HugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}, Unified: unified}); err != nil {
		t.Fatal(err)
	}
	for file, want := range want {
		if b, err := os.ReadFile(dir + "/" + file); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s = %q, %v; want %s", file, b, err, want)
		}
	}
	if b, err := os.ReadFile(dir + "/cgroup.subtree_control"); err != nil || len(strings.TrimSpace(string(b))) != 0 {
		t.Errorf("the group's own subtree_control is %q, %v: it could hold no processes", b, err)
	}
}

// keepControllers turns off afterwards what a test turns on in a cgroup2 root.
func keepControllers(t *testing.T, root string) {
	t.Helper()
	file := root + "/cgroup.subtree_control"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		after, _ := os.ReadFile(file)
		for c := range strings.FieldsSeq(string(after)) {
			if !strings.Contains(" "+string(before), " "+c) {
				err := os.WriteFile(file, []byte("-"+c), 0)
				for end := time.Now().Add(time.Minute); errors.Is(err, unix.EBUSY) && time.Now().Before(end); { // another run's group has it
					time.Sleep(20 * time.Millisecond)
					err = os.WriteFile(file, []byte("-"+c), 0)
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestDevices(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	null := []cgroup.Device{{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3), Access: "rw"},
		{Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](5), Access: "r"}}
	for range 2 {
		if err := g.Devices(null); err != nil {
			t.Fatal(err)
		}
	}
	c := spawn(t, g, "(: >/dev/null) && (: </dev/zero) && ! (: >/dev/zero) 2>/dev/null && ! (: </dev/full) 2>/dev/null")
	if err := c.Wait(); err != nil {
		t.Errorf("device rules: %v", err)
	}
	if err := g.Devices([]cgroup.Device{{Allow: true}}); err != nil {
		t.Fatal(err)
	}
	if err := spawn(t, g, "(: >/dev/zero)").Wait(); err != nil {
		t.Errorf("all devices: %v", err)
	}
}

// TestOOMFile reads the counter where OOMFile says it is.
func TestOOMFile(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	if err := g.Set(&cgroup.Resources{Memory: &cgroup.Memory{Limit: ptr[int64](8 << 20), Swap: ptr[int64](8 << 20)}}); err != nil {
		t.Fatal(err)
	}
	c := spawn(t, g, "x=$(head -c 64M /dev/zero | tr '\\0' x)")
	_ = c.Wait()
	b, err := os.ReadFile(g.OOMFile())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var n int
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
			if n == 0 {
				t.Error("the OOM killer was not counted")
			}
			return
		}
	}
	t.Errorf("no oom_kill line in %q", b)
}
