package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
