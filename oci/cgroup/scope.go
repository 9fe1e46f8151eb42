package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup/systemd"
)

// systemdTimeout bounds a scope's start. systemd answers in milliseconds, but
// on a node without CPU to spare its one thread has been seen to need half a
// minute; kubelet gives the creation of a container two.
const systemdTimeout = 90 * time.Second

// scopePath turns "slice:prefix:name" into the path systemd gives the scope
// prefix-name.scope: a dash in a slice's name is a step down (systemd.slice(5)).
func scopePath(cgroupsPath string) (p, unit string, err error) {
	f := strings.Split(cgroupsPath, ":")
	slice, prefix, name := f[0], f[1], f[2]
	if slice == "" {
		slice = "system.slice"
	}
	if name == "" || strings.HasSuffix(name, ".slice") {
		return "", "", fs.ErrInvalid
	}
	unit = name + ".scope"
	if prefix != "" {
		unit = prefix + "-" + unit
	}
	dir, err := slicePath(slice)
	if err != nil || !unitName(unit) {
		return "", "", fs.ErrInvalid
	}
	return dir + "/" + unit, unit, nil
}

// slicePath expands "a-b.slice" to "/a.slice/a-b.slice"; "-.slice" is the root.
func slicePath(slice string) (string, error) {
	stem, ok := strings.CutSuffix(slice, ".slice")
	if !ok || !unitName(slice) {
		return "", fs.ErrInvalid
	}
	if stem == "-" {
		return "", nil
	}
	var p, name string
	for part := range strings.SplitSeq(stem, "-") {
		if part == "" {
			return "", fs.ErrInvalid
		}
		if name != "" {
			name += "-"
		}
		name += part
		p += "/" + name + ".slice"
	}
	return p, nil
}

// unitName checks the alphabet of systemd.unit(5).
func unitName(s string) bool {
	for _, c := range s {
		if c > 0x7f || !strings.ContainsRune(":-_.\\@", c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return len(s) > 0 && len(s) < 256
}

// startScope has systemd make the group. A scope needs a process to begin
// with, and the container's own is to be born in it: a placeholder stands in
// until Settle. A name that is taken belongs to this very group (then there is
// nothing to do) or to a failed unit that nobody collected.
func startScope(g *Group, cgroupsPath string) error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
	defer cancel()
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	slice, _, _ := strings.Cut(cgroupsPath, ":")
	if slice == "" {
		slice = "system.slice"
	}
	hold, err := newPlaceholder()
	if err != nil {
		return err
	}
	s := systemd.Scope{Name: g.unit, Slice: slice, Description: "container " + g.unit, PID: hold.pid}
	err = conn.StartScope(ctx, s)
	if errors.Is(err, fs.ErrExist) && !alive(g) {
		if err = conn.ResetFailed(ctx, g.unit); err == nil {
			err = conn.StartScope(ctx, s)
		}
	}
	if err == nil {
		g.hold = hold
		return nil
	}
	hold.end()
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// alive reports whether any hierarchy has the group.
func alive(g *Group) bool {
	for _, d := range g.dirs {
		if unix.Access(d.path, unix.F_OK) == nil {
			return true
		}
	}
	return false
}

// stopScope has systemd give up the group's unit.
func stopScope(g *Group, ctx context.Context) error {
	if g.unit == "" {
		return nil
	}
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Stop(ctx, g.unit)
}

// tellSystemd repeats limits as unit properties: a reload of systemd writes
// those it knows, and would undo ours.
func tellSystemd(g *Group, r *Resources) error {
	if g.unit == "" {
		return nil
	}
	v2, _ := g.has("memory")
	props := properties(r, v2)
	if len(props) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
	defer cancel()
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.SetProperties(ctx, g.unit, props)
}

// properties are the limits systemd has properties for
// (systemd.resource-control(5)).
func properties(r *Resources, v2 bool) []systemd.Property {
	var props []systemd.Property
	add := func(name string, value any) { props = append(props, systemd.Property{Name: name, Value: value}) }
	if m := r.Memory; m != nil {
		if m.Limit != nil {
			add(pick(v2, "MemoryMax", "MemoryLimit"), infinity(*m.Limit))
		}
		if v2 && m.Reservation != nil {
			add("MemoryLow", infinity(*m.Reservation))
		}
		if v2 && m.Swap != nil && m.Limit != nil {
			swap := *m.Swap
			if swap >= 0 && *m.Limit >= 0 {
				swap -= *m.Limit
			}
			add("MemorySwapMax", infinity(swap))
		}
	}
	if c := r.CPU; c != nil {
		props = append(props, cpuProperties(c, v2)...)
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		add("TasksMax", infinity(*p.Limit))
	}
	return props
}

func cpuProperties(c *CPU, v2 bool) []systemd.Property {
	var props []systemd.Property
	add := func(name string, value any) { props = append(props, systemd.Property{Name: name, Value: value}) }
	if c.Shares != nil && *c.Shares != 0 {
		if v2 {
			add("CPUWeight", Weight(*c.Shares))
		} else {
			add("CPUShares", *c.Shares)
		}
	}
	period := uint64(100000)
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
		add("CPUQuotaPeriodUSec", period)
	}
	if c.Quota != nil && *c.Quota != 0 {
		perSec := uint64(math.MaxUint64)
		if *c.Quota > 0 {
			// systemd takes hundredths of a CPU: round up, never throttle more
			// than asked for.
			perSec = (uint64(*c.Quota)*1e6/period + 9999) / 10000 * 10000
		}
		add("CPUQuotaPerSecUSec", perSec)
	}
	if v2 && c.Cpus != "" {
		if bits, err := bitmap(c.Cpus); err == nil {
			add("AllowedCPUs", bits)
		}
	}
	if v2 && c.Mems != "" {
		if bits, err := bitmap(c.Mems); err == nil {
			add("AllowedMemoryNodes", bits)
		}
	}
	return props
}

// infinity is how systemd writes "no limit".
func infinity(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}

// bitmap turns a list as cpuset(7) has it ("0-2,7") into bits, lowest first.
func bitmap(list string) ([]byte, error) {
	var bits []byte
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(from, 10, 16)
		b := a
		if isRange && err == nil {
			b, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || b < a {
			return nil, fmt.Errorf("list %q: %w", list, fs.ErrInvalid)
		}
		for n := a; n <= b; n++ {
			for uint64(len(bits)) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	return bits, nil
}

// placeholder is a process that has executed nothing: a child of ours, traced,
// which stops at its exec. It occupies a scope and dies with us.
type placeholder struct {
	pid  int
	done chan struct{}
	gone chan struct{}
}

func newPlaceholder() (*placeholder, error) {
	h := &placeholder{done: make(chan struct{}), gone: make(chan struct{})}
	started := make(chan error)
	// ends when end is called
	go h.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start placeholder: %w", err)
	}
	return h, nil
}

// run is the tracer. It keeps its thread, which never returns to others: the
// kernel ties tracing and the death signal to it (ptrace(2), prctl(2)).
func (h *placeholder) run(started chan<- error) {
	defer close(h.gone)
	runtime.LockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"placeholder"}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		started <- err
		return
	}
	h.pid = p.Pid
	started <- nil
	<-h.done
	_ = p.Kill()
	// os.Process.Wait would be content with the stop.
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(h.pid, &status, 0, nil); err != nil && err != unix.EINTR || status.Signaled() || status.Exited() {
			return
		}
	}
}

func (h *placeholder) end() {
	close(h.done)
	<-h.gone
}

// Settle lets go of what keeps a new systemd scope alive while it is empty:
// call it when the first process is in. Without systemd it does nothing.
func (g *Group) Settle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hold != nil {
		g.hold.end()
		g.hold = nil
	}
}
