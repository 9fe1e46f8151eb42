package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
)

// Set writes the limits in r. It is transactional: when the kernel refuses one,
// those already written get their old values back and the error names the file.
// Device rules come last. Of a group that was created a moment ago and never Set
// there is nothing worth restoring: it is to be removed. A frozen group can be
// Set.
func (g *Group) Set(r *Resources) error {
	if r == nil {
		return nil
	}
	reclaim(g, r.Memory)
	p := planner{has: g.has, read: g.read}
	writes, err := p.plan(r)
	if err != nil {
		return fmt.Errorf("limit cgroup %s: %w", g.path, err)
	}
	undo, err := apply(g, writes)
	if err == nil {
		err = tellSystemd(g, r)
	}
	if err == nil && r.Devices != nil {
		err = setDevices(g, r.Devices)
	}
	if err != nil {
		return fmt.Errorf("limit cgroup %s: %w", g.path, errors.Join(err, restore(g, undo)))
	}
	g.fresh = false
	return nil
}

// reclaim makes room for a lower limit that is to be checked against what is in use: page cache counts as in use until it is
// given up, which the kernel does by itself only once the limit is there (memory.reclaim, Linux 5.19). What can't be reclaimed,
// the check finds.
func reclaim(g *Group, m *Memory) {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || m.Limit == nil || *m.Limit < 0 {
		return
	}
	d := g.dir("memory")
	if d == nil || !d.v2 {
		return
	}
	if usage, ok := number(g.read("memory", "memory.current")); ok && usage > *m.Limit {
		writeFile(d.path+"/memory.reclaim", strconv.FormatInt(usage-*m.Limit, 10))
	}
}

func (g *Group) has(controller string) (v2, ok bool) {
	h := g.lay.tree(controller)
	return h != nil && h.v2, h != nil
}

func (g *Group) read(controller, file string) string {
	d := g.dir(controller)
	if d == nil {
		return ""
	}
	b, _ := os.ReadFile(d.path + "/" + file)
	return strings.TrimRight(string(b), "\n")
}

// apply does the writes in order and returns how to undo those it did, last
// first. What a fresh group held before interests nobody.
func apply(g *Group, writes []write) (undo []write, err error) {
	for _, w := range writes {
		back, err := put(g, w)
		if errors.Is(err, fs.ErrNotExist) && w.optional {
			continue
		}
		if err != nil {
			return undo, err
		}
		if back.value != "" {
			undo = append([]write{back}, undo...)
		}
	}
	return undo, nil
}

// put does one write and returns its opposite. A controller that no hierarchy
// has is a file that does not exist, and unsupported.
func put(g *Group, w write) (back write, err error) {
	d := g.dir(w.controller)
	if d == nil {
		return back, fmt.Errorf("%s = %q: controller %s is not mounted: %w: %w", w.file, w.value, w.controller,
			errors.ErrUnsupported, fs.ErrNotExist)
	}
	// Not for the sake of an option in hybrid mode, where nobody has turned on
	// controllers of the cgroup2 tree, and doing so would forbid processes
	// beside groups (cgroup-v2, "No Internal Process Constraint").
	if d.v2 && w.controller != unifiedName && !(w.optional && g.lay.mode == Hybrid) {
		if err := enable(d, w.controller); err != nil && !w.optional {
			return back, err
		}
	}
	back = w
	back.value = w.old
	if w.old == "" && !g.fresh {
		back.value = g.read(w.controller, w.file)
	}
	if err := writeFile(d.path+"/"+w.file, w.value); err != nil || !w.verify {
		return back, err
	}
	if n, _ := number(g.read(w.controller, w.file)); n == math.MaxInt64 {
		return back, fmt.Errorf("%s = %q: this kernel has no such limit: %w", w.file, w.value, errors.ErrUnsupported)
	}
	return back, nil
}

func restore(g *Group, undo []write) error {
	var errs []error
	for _, w := range undo {
		if d := g.dir(w.controller); d != nil {
			if err := writeFile(d.path+"/"+w.file, w.value); err != nil {
				errs = append(errs, fmt.Errorf("restore: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// systemdFiles reads the files of cgroup2 that systemd writes, in an order in which they can be written. (v1: none that it is
// not told of.)
func systemdFiles(g *Group) []write {
	var held []write
	idle := g.read("cpu", "cpu.idle") == "1"
	for _, f := range [...]string{"cpu.idle", "cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems", "memory.min", "memory.low", "memory.high",
		"memory.max", "memory.swap.max", "memory.zswap.max", "memory.zswap.writeback", oomGroup, "pids.max"} {
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
