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
// nothing to do), to a failed unit that nobody collected, or, which is an error,
// to a unit in another slice.
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
	if errors.Is(err, fs.ErrExist) && alive(g) {
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

// tellSystemd repeats limits as unit properties, for systemd writes those it knows whenever it looks after the unit again,
// and would undo ours. It begins with that at once, and not only with the properties it is told: of a controller whose
// properties change it writes every file it has a property for, be that at its default (cgroup_context_apply), before it
// answers (bus_scope_commit_properties). Those files get back what they held.
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
	held := systemdFiles(g)
	if err := conn.SetProperties(ctx, g.unit, props); err != nil {
		return err
	}
	return hold(g, held)
}

// systemdFiles reads the files of cgroup2 that systemd writes, in an order in which they can be written. (v1: none that it is
// not told of.)
func systemdFiles(g *Group) []write {
	var held []write
	idle := g.read("cpu", "cpu.idle") == "1"
	for _, f := range [...]string{"cpu.idle", "cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems", "memory.min", "memory.low", "memory.high",
		"memory.max", "memory.swap.max", "memory.zswap.max", "memory.zswap.writeback", "memory.oom.group", "pids.max"} {
		controller, _, _ := strings.Cut(f, ".")
		if v2, ok := g.has(controller); !ok || !v2 || f == "cpu.weight" && idle { // an idle group takes no weight
			continue
		}
		if text := g.read(controller, f); text != "" {
			held = append(held, write{controller: controller, file: f, value: text})
		}
	}
	return held
}

// hold writes what a file does not hold any more.
func hold(g *Group, held []write) error {
	for _, w := range held {
		if g.read(w.controller, w.file) == w.value {
			continue
		}
		if err := writeFile(g.dir(w.controller).path+"/"+w.file, w.value); err != nil {
			return fmt.Errorf("after systemd: %w", err)
		}
	}
	return nil
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
	if v2 {
		props = append(props, unifiedProperties(r.Unified)...)
	}
	return props
}

// unifiedProperties are those of plain numbers.
func unifiedProperties(unified map[string]string) []systemd.Property {
	var props []systemd.Property
	for _, key := range sortedKeys(unified) {
		name := map[string]string{"cpu.weight": "CPUWeight", "memory.min": "MemoryMin", "memory.low": "MemoryLow", "memory.high": "MemoryHigh",
			"memory.max": "MemoryMax", "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax"}[key]
		// The kernel takes "1G" as well; what it made of that is held all the same.
		n, ok := number(unified[key])
		if !ok || name == "" {
			continue
		}
		if n == math.MaxInt64 {
			n = -1
		}
		props = append(props, systemd.Property{Name: name, Value: infinity(n)})
	}
	return props
}

func cpuProperties(c *CPU, v2 bool) []systemd.Property {
	var props []systemd.Property
	add := func(name string, value any) { props = append(props, systemd.Property{Name: name, Value: value}) }
	switch idle := c.Idle != nil && *c.Idle != 0; {
	case c.Shares == nil || *c.Shares == 0 || idle: // an idle group takes no weight
	case v2:
		add("CPUWeight", Weight(*c.Shares))
	default:
		add("CPUShares", *c.Shares)
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
	for _, set := range [][2]string{{"AllowedCPUs", c.Cpus}, {"AllowedMemoryNodes", c.Mems}} {
		if bits, err := bitmap(set[1]); v2 && err == nil {
			add(set[0], bits)
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
