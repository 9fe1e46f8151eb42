package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestScopePath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"kubepods-burstable-pod1_2.slice:berth:abc": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/berth-abc.scope berth-abc.scope",
		"test.slice::abc":                       "/test.slice/abc.scope abc.scope",
		":berth:abc":                            "/system.slice/berth-abc.scope berth-abc.scope",
		"-.slice:berth:abc":                     "/berth-abc.scope berth-abc.scope",
		"a:berth:abc":                           "",
		"a--b.slice:x:abc":                      "",
		"a.slice:x:":                            "",
		"a.slice:x:b.slice":                     "",
		"a.slice:x:b c":                         "",
		"../a.slice:x:b":                        "",
		"a.slice:x:" + strings.Repeat("b", 300): "",
	} {
		p, unit, err := resolve(in)
		if want == "" {
			if !errors.Is(err, fs.ErrInvalid) && unit != "" {
				t.Errorf("%q: %q %q %v", in, p, unit, err)
			}
			continue
		}
		if got := p + " " + unit; got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestProperties(t *testing.T) {
	t.Parallel()
	r := &Resources{
		Memory: &Memory{Limit: ptr[int64](100), Swap: ptr[int64](150)},
		CPU:    &CPU{Shares: ptr[uint64](1024), Quota: ptr[int64](25001), Period: ptr[uint64](50000), Cpus: "0-2,9"},
		Pids:   &Pids{Limit: ptr[int64](-1)},
	}
	for v2, want := range map[bool]string{
		true:  "[{MemoryMax 100} {MemorySwapMax 50} {CPUWeight 100} {CPUQuotaPeriodUSec 50000} {CPUQuotaPerSecUSec 510000} {AllowedCPUs [7 2]} {TasksMax 18446744073709551615}]",
		false: "[{MemoryLimit 100} {CPUShares 1024} {CPUQuotaPeriodUSec 50000} {CPUQuotaPerSecUSec 510000} {TasksMax 18446744073709551615}]",
	} {
		if got := fmt.Sprint(properties(r, v2)); got != want {
			t.Errorf("v2 %v: %s", v2, got)
		}
	}
}

// Keys of unified that systemd has properties for; the others it does not touch.
func TestUnifiedProperties(t *testing.T) {
	t.Parallel()
	r := &Resources{Pids: &Pids{Limit: ptr[int64](0)}, Unified: map[string]string{"memory.high": "64M", "memory.min": "4096\n", "memory.low": "max", "memory.max": "1g", "memory.swap.max": "0",
		"memory.oom.group": "1", "pids.max": "0", "cpu.max": "25001 50000", "cpu.weight": "7", "cpuset.cpus": "1", "cpuset.mems": "0", "io.weight": "default 50",
		"io.max": "8:0 rbps=1", "hugetlb.2MB.max": "0"}}
	const want = "[{TasksMax 1} {CPUQuotaPeriodUSec 50000} {CPUQuotaPerSecUSec 510000} {CPUWeight 7} {AllowedCPUs [2]} {AllowedMemoryNodes [1]} {IOWeight 50} " +
		"{MemoryHigh 67108864} {MemoryLow 18446744073709551615} {MemoryMax 1073741824} {MemoryMin 4096} {MemorySwapMax 0} {TasksMax 1}]"
	if got := fmt.Sprint(properties(r, true)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := fmt.Sprint(properties(r, false)); got != "[{TasksMax 1}]" {
		t.Errorf("v1: %s", got)
	}
	for key, value := range map[string]string{"memory.high": "x", "memory.max": "99999999999g", "cpu.max": "", "cpu.weight": "", "cpuset.cpus": "3-1"} {
		if got := unifiedProperties(key, value); got != nil {
			t.Errorf("%s = %q: %v", key, value, got)
		}
	}
	if got := fmt.Sprint(unifiedProperties("cpu.max", "max")); got != "[{CPUQuotaPerSecUSec 18446744073709551615}]" {
		t.Error(got)
	}
}

// Of these an older systemd knows nothing; a weight beside an idle group's would be refused by the kernel.
func TestNewerProperties(t *testing.T) {
	t.Parallel()
	idle := &Resources{CPU: &CPU{Idle: ptr[int64](1), Shares: ptr[uint64](1024)}, Unified: map[string]string{"memory.zswap.max": "1M"}}
	if got := fmt.Sprint(newerProperties(idle, true), properties(idle, true)); got != "[{CPUWeight 0} {MemoryZSwapMax 1048576}] []" {
		t.Error(got)
	}
	if got := fmt.Sprint(newerProperties(&Resources{Unified: map[string]string{"cpu.idle": "1"}}, true)); got != "[{CPUWeight 0}]" {
		t.Error(got)
	}
	if got := newerProperties(&Resources{CPU: &CPU{Idle: ptr[int64](0)}, Unified: map[string]string{"cpu.idle": "0", "memory.zswap.max": "x"}}, true); got != nil {
		t.Error(got)
	}
	if got := newerProperties(idle, false); got != nil {
		t.Error(got)
	}
}

// The rules that systemd has to repeat on v1, and those for which it has no words.
func TestDeviceProperties(t *testing.T) {
	t.Parallel()
	none := Device{Access: "rwm"}
	for _, c := range []struct {
		rules []Device
		want  string
	}{
		{[]Device{none}, "[{DeviceAllow []} {DevicePolicy strict} {DeviceAllow []}]"},
		{[]Device{none, {Allow: true, Type: "c", Access: "m"}, {Allow: true, Type: "b", Access: "m"}, {Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3)},
			{Allow: true, Type: "c", Major: ptr[int64](136), Access: "rw"}},
			"[{DeviceAllow []} {DevicePolicy strict} {DeviceAllow [[char-* m] [block-* m] [/dev/char/1:3 rwm] [char-136 rw]]}]"},
		{[]Device{{Allow: true}}, "[{DeviceAllow []} {DevicePolicy auto}]"},
		{[]Device{{Allow: true}, {Type: "b", Major: ptr[int64](8)}}, ""},
		{[]Device{none, {Allow: true, Type: "c", Minor: ptr[int64](3)}}, ""},
	} {
		p, err := newPolicy(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.properties()
		if c.want == "" && !errors.Is(err, errors.ErrUnsupported) || c.want != "" && (err != nil || fmt.Sprint(got) != c.want) {
			t.Errorf("%+v: %v, %v; want %s", c.rules, got, err, c.want)
		}
	}
}

func TestBitmap(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"0": "[1]", "1,8-9": "[2 3]", "3-1": "", "x": "", "": "", "1-": ""} {
		got, err := bitmap(in)
		if want == "" && !errors.Is(err, fs.ErrInvalid) || want != "" && fmt.Sprint(got) != want {
			t.Errorf("bitmap(%q) = %v, %v", in, got, err)
		}
	}
}

// TestPlaceholder looks at what stands in for a container: stopped, and gone
// when told so.
func TestPlaceholder(t *testing.T) {
	t.Parallel()
	h, err := newPlaceholder()
	if err != nil {
		t.Fatal(err)
	}
	state := func() string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.pid))
		_, after, _ := strings.Cut(string(b), ") ")
		return after[:min(1, len(after))]
	}
	for end := time.Now().Add(time.Minute); state() != "t" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if s := state(); s != "t" {
		t.Errorf("state %q, want t: stopped by its tracer", s)
	}
	h.end()
	if s := state(); s != "" {
		t.Errorf("state %q after the end", s)
	}
}

func TestSystemdDriverWithout(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("this host has systemd")
	}
	if _, err := host(); err != nil {
		t.Skip("needs cgroups: ", err)
	}
	if _, err := Create("berth-test.slice:berth:x", Systemd); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Create: %v", err)
	}
	if _, err := Create("/berth-test/x", Systemd); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Create of a plain path: %v", err)
	}
}

// TestScopeOOMFile: the monitor is told where a scope's counter will be before there is one.
func TestScopeOOMFile(t *testing.T) {
	f := OOMFile("kubepods-besteffort.slice:berth:c1")
	if f == "" {
		t.Skip("no memory controller")
	}
	if dir := "/kubepods.slice/kubepods-besteffort.slice/berth-c1.scope"; !strings.HasSuffix(filepath.Dir(f), dir) {
		t.Errorf("%s is not in a directory %s", f, dir)
	}
}

// What systemd does with a group that it made, whenever it is told something of it and when it is reloaded: it writes all that it
// has a property for. Nothing of ours may be lost by that.
func TestScopeKeepsLimits(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs systemd, and root")
	}
	r := &Resources{CPU: &CPU{Shares: ptr[uint64](200), Quota: ptr[int64](50000), Period: ptr[uint64](100000)}, BlockIO: &BlockIO{Weight: ptr[uint16](500)},
		Memory: &Memory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](64 << 20), Reservation: ptr[int64](8 << 20)}}
	wanted := map[string]string{"cpu.weight": fmt.Sprint(Weight(200)), "cpu.max": "50000 100000", "memory.max": "67108864", "memory.low": "8388608", "memory.swap.max": "0",
		"memory.high": "33554432", "memory.min": "1048576", "memory.oom.group": "1", "pids.max": "77", "cpuset.cpus": "0"}
	r.Unified = map[string]string{"memory.high": "32M", "memory.min": "1048576", "memory.oom.group": "1", "cpuset.cpus": "0"}
	l, err := host()
	if err != nil {
		t.Fatal(err)
	}
	if l.mode != Unified {
		r, wanted = &Resources{CPU: r.CPU}, map[string]string{"cpu.shares": "200", "cpu.cfs_quota_us": "50000", "pids.max": "77"}
	}
	g, err := CreateFor(fmt.Sprintf("system.slice:berth-test:limits%d", os.Getpid()), Systemd, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Remove(context.Background()) })
	t.Cleanup(g.Settle) // until then the placeholder is what is in the group
	for _, step := range []*Resources{r, {Devices: []Device{{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3), Access: "rw"}}},
		{Pids: &Pids{Limit: ptr[int64](77)}}} {
		if err := g.Set(step); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		for file, want := range wanted {
			controller, _, _ := strings.Cut(file, ".")
			if got := g.read(controller, file); got != want {
				t.Errorf("%s: %s is %q, want %q", when, file, got, want)
			}
		}
		if got := g.read("devices", "devices.list"); g.dir("devices") != nil && got != "c 1:3 rw" {
			t.Errorf("%s: devices %q", when, got)
		}
	}
	check("set")
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check("reloaded")
	idle := &Resources{CPU: &CPU{Idle: ptr[int64](1)}}
	if err := g.Set(idle); err != nil {
		t.Fatal(err)
	}
	if err := g.Set(&Resources{Pids: &Pids{Limit: ptr[int64](78)}}); err != nil || g.read("cpu", "cpu.idle") != "1" {
		t.Errorf("idle %q, %v", g.read("cpu", "cpu.idle"), err)
	}
}
