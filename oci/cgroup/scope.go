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
func startScope(g *Group, cgroupsPath string, r *Resources) error {
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
	s := systemd.Scope{Name: g.unit, Slice: slice, Description: "container " + g.unit, PID: hold.pid,
		OOMKill: r != nil && strings.TrimSpace(r.Unified[oomGroup]) == "1"}
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

// tellSystemd repeats limits as unit properties. Whenever it is told anything of a unit, and when it is reloaded, systemd writes
// all the files it has properties for, those that nobody set back to their defaults, and before it answers. What it has no
// property for, or rounds as it does a quota, gets back what it held.
func tellSystemd(g *Group, r *Resources) error {
	if g.unit == "" {
		return nil
	}
	props, err := unitProperties(g, r)
	if err != nil {
		return err
	}
	newer := newerProperties(r, g.lay.mode == Unified)
	if len(props)+len(newer) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
	defer cancel()
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer still(ctx, g)()
	held := systemdFiles(g)
	if len(props) > 0 {
		if err := conn.SetProperties(ctx, g.unit, props); err != nil {
			return err
		}
	}
	for _, p := range newer {
		var refused *systemd.Error
		if err := conn.SetProperties(ctx, g.unit, []systemd.Property{p}); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	return hold(g, held)
}

// unitProperties are the properties that any systemd has, for a group.
func unitProperties(g *Group, r *Resources) ([]systemd.Property, error) {
	props := properties(r, g.lay.mode == Unified)
	if r.BlockIO != nil && r.BlockIO.Weight != nil && *r.BlockIO.Weight != 0 {
		props = append(props, ioProperty(g, *r.BlockIO.Weight))
	}
	// On v2 systemd leaves a program alone that is not its own.
	if r.Devices == nil || g.dir("devices") == nil {
		return props, nil
	}
	rules, err := newPolicy(r.Devices)
	if err != nil {
		return nil, err
	}
	more, err := rules.properties()
	return append(props, more...), err
}

// oomGroup has the OOM killer take all of a group; cgroup2.
const oomGroup = "memory.oom.group"

// still freezes a group on v1 while systemd writes its device rules: between the first, which denies all, and the others nothing
// can be opened. A group that can't be frozen in time has to live with that. The function returned lets it go on.
func still(ctx context.Context, g *Group) func() {
	if g.dir("devices") == nil {
		return func() {}
	}
	if frozen, err := g.Frozen(); err != nil || frozen {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if g.Freeze(ctx) != nil {
		return func() {}
	}
	return func() { _ = g.Thaw() }
}

// ioProperty is the weight from which systemd comes to what the group has got. Beside the file that it is meant for systemd writes
// that of BFQ, by a scale of its own, which is ours up to 100 and an eleventh of the way above (cgroup.c, BFQ_WEIGHT).
func ioProperty(g *Group, w uint16) systemd.Property {
	p := planner{has: g.has, read: g.read}
	n, bfq := uint64(w), uint64(w)
	if w > 100 {
		bfq = 100 + (uint64(w)-100)*11
	}
	if p.v1("blkio") {
		if p.firstFile("blkio", "blkio.weight", "blkio.bfq.weight") != "blkio.weight" {
			n = min(bfq, 1000) // which is as far as that property goes
		}
		return systemd.Property{Name: "BlockIOWeight", Value: n}
	}
	if file := p.firstFile("io", "io.bfq.weight", "io.weight"); file == "io.weight" {
		n, _ = strconv.ParseUint(ioWeight(file, w), 10, 64)
	} else {
		n = bfq
	}
	return systemd.Property{Name: "IOWeight", Value: n}
}

// newerProperties are those that an older systemd refuses, whose files it then does not write either: CPUWeight 0 is cpu.idle
// since 252, MemoryZSwapMax came with 253.
func newerProperties(r *Resources, v2 bool) (props []systemd.Property) {
	if !v2 {
		return nil
	}
	if idle := r.Unified["cpu.idle"]; idle != "" && idle != "0" || idleCPU(r.CPU) {
		props = append(props, systemd.Property{Name: "CPUWeight", Value: uint64(0)})
	}
	if n, ok := amount(strings.TrimSpace(r.Unified["memory.zswap.max"])); ok {
		props = append(props, systemd.Property{Name: "MemoryZSwapMax", Value: n})
	}
	return props
}

func idleCPU(c *CPU) bool { return c != nil && c.Idle != nil && *c.Idle != 0 }

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
		add("TasksMax", tasks(infinity(*p.Limit)))
	}
	if v2 {
		for _, key := range sortedKeys(r.Unified) {
			props = append(props, unifiedProperties(key, strings.TrimSpace(r.Unified[key]))...)
		}
	}
	return props
}

// tasks is a limit as systemd takes it: 0 is refused, and as good as 1, which the container's first process is.
func tasks(n uint64) uint64 { return max(n, 1) }

// unifiedProperties are the properties of a file of the cgroup2 tree. Files that systemd does not write it leaves alone, and
// values that the kernel has taken and this can't read are the kernel's business.
func unifiedProperties(key, value string) []systemd.Property {
	name, limits := map[string]string{"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
		"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight", "io.weight": "IOWeight"}[key], &CPU{}
	switch key {
	case "cpu.max":
		f := strings.Fields(value)
		if len(f) == 0 {
			return nil
		}
		quota, ok := number(f[0])
		if quota == math.MaxInt64 {
			quota = -1
		}
		limits.Quota = &quota
		if period, known := number(strings.Join(f[1:], "")); known && period > 0 {
			p := uint64(period)
			limits.Period = &p
		}
		if !ok {
			return nil
		}
		return cpuProperties(limits, true)
	case "cpuset.cpus":
		limits.Cpus = value
		return cpuProperties(limits, true)
	case "cpuset.mems":
		limits.Mems = value
		return cpuProperties(limits, true)
	}
	n, ok := amount(strings.TrimPrefix(value, "default "))
	if name == "" || !ok {
		return nil
	}
	if key == "pids.max" {
		n = tasks(n)
	}
	return []systemd.Property{{Name: name, Value: n}}
}

// amount reads a value of cgroup2: a number of bytes as the kernel takes it (memparse: 64M), or max.
func amount(value string) (uint64, bool) {
	if value == "max" {
		return math.MaxUint64, true
	}
	shift := 0
	if i := strings.IndexAny(value, "kKmMgGtT"); i > 0 && i == len(value)-1 {
		shift = 10 * (1 + strings.IndexByte("kmgt", value[i]|0x20))
		value = value[:i]
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return 0, false
	}
	return n << shift, true
}

func cpuProperties(c *CPU, v2 bool) []systemd.Property {
	var props []systemd.Property
	add := func(name string, value any) { props = append(props, systemd.Property{Name: name, Value: value}) }
	if c.Shares != nil && *c.Shares != 0 && !idleCPU(c) {
		add(pick(v2, "CPUWeight", "CPUShares"), map[bool]uint64{true: Weight(*c.Shares), false: *c.Shares}[v2])
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
	if !v2 {
		return props
	}
	if bits, err := bitmap(c.Cpus); err == nil {
		add("AllowedCPUs", bits)
	}
	if bits, err := bitmap(c.Mems); err == nil {
		add("AllowedMemoryNodes", bits)
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
