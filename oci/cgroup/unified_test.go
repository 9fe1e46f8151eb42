package cgroup_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-runtime/berth/oci/cgroup"
)

// needV2 skips where the controllers are not cgroup2's.
func needV2(t *testing.T) {
	t.Helper()
	needRoot(t)
	if mode, _ := cgroup.Detect(); mode != cgroup.Unified {
		t.Skip("needs a host with cgroup v2")
	}
}

// newScope has systemd make a group, with a process in it, that is gone with the test.
func newScope(t *testing.T) *cgroup.Group {
	t.Helper()
	needV2(t)
	if _, err := os.Stat("/run/systemd/private"); err != nil {
		t.Skip("needs systemd")
	}
	name := fmt.Sprintf("berthtest%x", time.Now().UnixNano()) // names of units are the machine's, whatever slice they are in
	slice := name + ".slice"
	g, err := cgroup.Create(slice+":berth:"+name, cgroup.Systemd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(soon(t)), g.Remove(soon(t))); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(g.Dirs()[""]); err == nil {
			t.Errorf("%s is left", g.Path())
		}
		exec.Command("systemctl", "stop", slice).Run() // an empty slice harms nobody
	})
	spawn(t, g, "exec sleep 1000")
	g.Settle()
	return g
}

// files compares control files of the cgroup2 tree with what they should hold.
func files(t *testing.T, g *cgroup.Group, want map[string]string) {
	t.Helper()
	for file, w := range want {
		text, err := os.ReadFile(g.Dirs()[""] + "/" + file)
		if got := strings.TrimSpace(string(text)); err != nil || got != w {
			t.Errorf("%s = %q, %v; want %q", file, got, err, w)
		}
	}
}

func set(t *testing.T, g *cgroup.Group, r *cgroup.Resources) {
	t.Helper()
	if err := g.Set(r); err != nil {
		t.Fatal(err)
	}
}

// TestSetUnified writes each kind of limit, twice: the second time to a group that has limits.
func TestSetUnified(t *testing.T) {
	t.Parallel()
	needV2(t)
	g := newGroup(t)
	for _, mib := range []int64{64, 128, 32} {
		set(t, g, &cgroup.Resources{
			CPU: &cgroup.CPU{Shares: ptr[uint64](512), Quota: ptr[int64](20000), Period: ptr[uint64](50000), Burst: ptr(uint64(1000 * mib / 64)),
				Cpus: "0", Mems: "0"},
			Memory:         &cgroup.Memory{Limit: ptr(mib << 20), Swap: ptr(mib << 21), Reservation: ptr(mib << 18)},
			Pids:           &cgroup.Pids{Limit: ptr[int64](77)},
			HugepageLimits: []cgroup.HugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "3MB"}},
			BlockIO:        &cgroup.BlockIO{Weight: ptr[uint16](505)},
			Unified:        map[string]string{"memory.high": fmt.Sprint(mib << 19), "memory.oom.group": "1"},
		})
		n := func(v int64) string { return fmt.Sprint(v) }
		files(t, g, map[string]string{"cpu.weight": "59", "cpu.max": "20000 50000", "cpu.max.burst": n(1000 * mib / 64), "cpuset.cpus": "0",
			"cpuset.mems": "0", "memory.max": n(mib << 20), "memory.swap.max": n(mib << 20), "memory.low": n(mib << 18), "memory.high": n(mib << 19),
			"memory.oom.group": "1", "pids.max": "77", "hugetlb.2MB.max": n(4 << 20)})
	}
	set(t, g, &cgroup.Resources{CPU: &cgroup.CPU{Quota: ptr[int64](-1)}, Memory: &cgroup.Memory{Limit: ptr[int64](-1), Swap: ptr[int64](-1)},
		Pids: &cgroup.Pids{Limit: ptr[int64](-1)}})
	files(t, g, map[string]string{"cpu.max": "max 50000", "memory.max": "max", "memory.swap.max": "max", "pids.max": "max"})
}

// TestSetUnifiedIsTransactional has the last of several limits refused.
func TestSetUnifiedIsTransactional(t *testing.T) {
	t.Parallel()
	needV2(t)
	for driver, g := range map[string]*cgroup.Group{"cgroupfs": newGroup(t), "systemd": newScope(t)} {
		set(t, g, &cgroup.Resources{CPU: &cgroup.CPU{Shares: ptr[uint64](1024), Cpus: "0"},
			Memory: &cgroup.Memory{Limit: ptr[int64](100 << 20), Swap: ptr[int64](100 << 20)}, Pids: &cgroup.Pids{Limit: ptr[int64](10)}})
		err := g.Set(&cgroup.Resources{CPU: &cgroup.CPU{Shares: ptr[uint64](2), Quota: ptr[int64](5000)},
			Memory: &cgroup.Memory{Limit: ptr[int64](50 << 20), Swap: ptr[int64](60 << 20)}, Pids: &cgroup.Pids{Limit: ptr[int64](1 << 40)}})
		if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "pids.max") {
			t.Errorf("%s: Set: %v", driver, err)
		}
		files(t, g, map[string]string{"cpu.weight": "100", "cpu.max": "max 100000", "cpuset.cpus": "0", "memory.max": fmt.Sprint(100 << 20),
			"memory.swap.max": "0", "pids.max": "10"})
	}
}

// TestScope: a scope has the limits that were asked for to the letter, keeps those that systemd knows nothing of when others
// change, and all of them when systemd reads its configuration again.
func TestScope(t *testing.T) {
	t.Parallel()
	g := newScope(t)
	set(t, g, &cgroup.Resources{
		CPU:     &cgroup.CPU{Shares: ptr[uint64](512), Quota: ptr[int64](20001), Period: ptr[uint64](50000), Burst: ptr[uint64](500), Cpus: "0", Mems: "0"},
		Memory:  &cgroup.Memory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](96 << 20), Reservation: ptr[int64](16 << 20)},
		Pids:    &cgroup.Pids{Limit: ptr[int64](77)},
		Unified: map[string]string{"memory.high": fmt.Sprint(48 << 20), "memory.min": "1M", "memory.oom.group": "1"},
		Devices: []cgroup.Device{{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3), Access: "rw"}},
	})
	want := map[string]string{"cpu.weight": "59", "cpu.max": "20001 50000", "cpu.max.burst": "500", "cpuset.cpus": "0", "cpuset.mems": "0",
		"memory.max": fmt.Sprint(64 << 20), "memory.swap.max": fmt.Sprint(32 << 20), "memory.low": fmt.Sprint(16 << 20),
		"memory.high": fmt.Sprint(48 << 20), "memory.min": fmt.Sprint(1 << 20), "memory.oom.group": "1", "pids.max": "77"}
	files(t, g, want)
	set(t, g, &cgroup.Resources{Memory: &cgroup.Memory{Limit: ptr[int64](80 << 20)}})
	want["memory.max"] = fmt.Sprint(80 << 20)
	files(t, g, want)
	set(t, g, &cgroup.Resources{CPU: &cgroup.CPU{Quota: ptr[int64](10000), Period: ptr[uint64](100000)}})
	want["cpu.max"] = "10000 100000"
	files(t, g, want)
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("daemon-reload: %v: %s", err, out)
	}
	files(t, g, want)
	if err := spawn(t, g, "(: >/dev/null) && ! (: >/dev/zero) 2>/dev/null").Wait(); err != nil {
		t.Errorf("device rules: %v", err)
	}
}

// TestScopeIdle: an idle group has no weight, whatever systemd thinks of it.
func TestScopeIdle(t *testing.T) {
	t.Parallel()
	g := newScope(t)
	if _, err := os.Stat(g.Dirs()[""] + "/cpu.idle"); err != nil {
		t.Skip("needs Linux 5.15")
	}
	set(t, g, &cgroup.Resources{CPU: &cgroup.CPU{Shares: ptr[uint64](512), Idle: ptr[int64](1), Quota: ptr[int64](50000), Period: ptr[uint64](100000)}})
	files(t, g, map[string]string{"cpu.idle": "1", "cpu.max": "50000 100000"})
	set(t, g, &cgroup.Resources{CPU: &cgroup.CPU{Quota: ptr[int64](60000)}})
	files(t, g, map[string]string{"cpu.idle": "1", "cpu.max": "60000 100000"})
	set(t, g, &cgroup.Resources{CPU: &cgroup.CPU{Shares: ptr[uint64](1024), Idle: ptr[int64](0)}})
	files(t, g, map[string]string{"cpu.idle": "0", "cpu.weight": "100", "cpu.max": "60000 100000"})
}

// TestScopeEnds: a scope goes with its group, also when it is frozen, and its name can be had again at once.
func TestScopeEnds(t *testing.T) {
	t.Parallel()
	g := newScope(t)
	for range 2 {
		if err := g.Freeze(soon(t)); err != nil {
			t.Fatal(err)
		}
		if frozen, err := g.Frozen(); err != nil || !frozen {
			t.Errorf("frozen: %v, %v", frozen, err)
		}
		if err := errors.Join(g.Kill(soon(t)), g.Remove(soon(t))); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(g.Dirs()[""]); err == nil {
			t.Errorf("%s is left", g.Path())
		}
		slice, name := nameOf(g)
		again, err := cgroup.Create(slice+":berth:"+name, cgroup.Systemd)
		if err != nil {
			t.Fatal(err)
		}
		spawn(t, again, "exec sleep 1000")
		again.Settle()
		holds(t, again, 1)
		g = again
	}
}

// nameOf is what a scope's path was made of.
func nameOf(g *cgroup.Group) (slice, name string) {
	slice, unit, _ := strings.Cut(strings.TrimPrefix(g.Path(), "/"), "/")
	return slice, strings.TrimSuffix(strings.TrimPrefix(unit, "berth-"), ".scope")
}

// TestScopeElsewhere: a unit with that name in another slice is not this group, and is left alone.
func TestScopeElsewhere(t *testing.T) {
	t.Parallel()
	g := newScope(t)
	_, name := nameOf(g)
	other, err := cgroup.Create("berthtestother.slice:berth:"+name, cgroup.Systemd)
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "berth-"+name+".scope") {
		t.Errorf("Create: %v, %v", other, err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/berthtestother.slice/berth-" + name + ".scope"); err == nil {
		t.Error("its cgroup was made all the same")
	}
	holds(t, g, 1)
}
