package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Procs lists the processes in the group and all groups below, in ascending
// order, as pids of the reader's PID namespace. A group that is gone is empty.
func (g *Group) Procs() ([]int, error) {
	var all []int
	for _, d := range g.dirs {
		if !d.own {
			continue
		}
		if err := walk(d.path, &all); err != nil {
			return nil, fmt.Errorf("processes of cgroup %s: %w", g.path, err)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func walk(p string, all *[]int) error {
	b, err := os.ReadFile(p + "/cgroup.procs")
	switch {
	case gone(err):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		// A threaded cgroup2: its processes are listed by the ancestor that is
		// its domain, which is walked too (cgroup-v2, "Threads").
	case err != nil:
		return err
	}
	for line := range strings.Lines(string(b)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		// 0 is a process outside the reader's PID namespace.
		if err == nil && pid > 0 {
			*all = append(*all, pid)
		}
	}
	for _, c := range children(p) {
		if err := walk(c, all); err != nil {
			return err
		}
	}
	return nil
}

// gone reports whether a read failed because the cgroup was removed: before
// the open ENOENT, after it ENODEV.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// Kill kills every process in the group and below, frozen ones too, and
// returns when none is left or ctx ends. cgroup2 does it at once (cgroup.kill,
// Linux 5.14), in hybrid mode as well; elsewhere the group is frozen while its
// members are signalled, so that nothing forks away. The group ends up thawed.
//
// A group that was killed is at its end: Linux 6.18 kills whatever is born into
// it by CLONE_INTO_CGROUP later (the child's count of kills is taken from its
// parent's cgroup and found wanting). Remove and Create it to use it again.
func (g *Group) Kill(ctx context.Context) error {
	for wait := time.Duration(0); ; wait = min(2*wait+250*time.Microsecond, 20*time.Millisecond) {
		left, err := killOnce(g, wait == 0)
		if err != nil {
			return fmt.Errorf("kill cgroup %s: %w", g.path, err)
		}
		if left == 0 {
			return nil
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("kill cgroup %s: %d processes left: %w", g.path, left, err)
		}
	}
}

// killOnce kills what it sees and reports how many that were. The first time it
// leaves it at cgroup.kill where there is that: nothing escapes it but what is
// in v1 hierarchies only.
func killOnce(g *Group, first bool) (int, error) {
	whole := false
	if d := g.dir(unifiedName); d != nil && d.own {
		whole = writeFile(d.path+"/cgroup.kill", "1") == nil
	}
	pids, err := g.Procs()
	if err != nil || len(pids) == 0 {
		return 0, err
	}
	if d := g.freezer(); whole && first {
		if d != nil && !d.v2 {
			// The v1 freezer holds even the killed; cgroup2's lets them go.
			_ = d.thawAll()
		}
		return len(pids), nil
	}
	// Asked for, not waited for: it narrows the race with fork, the loop in
	// Kill closes it.
	if d := g.freezer(); d != nil {
		_ = d.setFrozen(true)
		defer func() { _ = d.thawAll() }()
		if pids, err = g.Procs(); err != nil {
			return 0, err
		}
	}
	return len(pids), signal(g, pids, unix.SIGKILL)
}

// Signal sends a signal to every process in the group and below.
func Signal(g *Group, sig unix.Signal) error {
	pids, err := g.Procs()
	if err != nil {
		return err
	}
	return signal(g, pids, sig)
}

// signal signals those of pids that are members. A pid that was read may be another process's by now; so each is
// pinned by a pidfd and looked for once more: what is still listed then is what the pidfd stands for.
func signal(g *Group, pids []int, sig unix.Signal) error {
	pinned := map[int]int{}
	defer func() {
		for _, fd := range pinned {
			unix.Close(fd)
		}
	}()
	var errs []error
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case err == nil:
			pinned[pid] = fd
		case err != unix.ESRCH && err != unix.EINVAL: // gone, or not the leader of a thread group any more
			errs = append(errs, fmt.Errorf("pid %d: %w", pid, err))
		}
	}
	still, err := g.Procs()
	if err != nil {
		return err
	}
	for _, pid := range still {
		if fd, ok := pinned[pid]; ok {
			if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && err != unix.ESRCH {
				errs = append(errs, fmt.Errorf("pid %d: %w", pid, err))
			}
		}
	}
	return errors.Join(errs...)
}

// freezer is the directory that freezes the group, nil if the host has none.
func (g *Group) freezer() *dir {
	d := g.dir("freezer")
	if d == nil {
		d = g.dir(unifiedName)
	}
	if d == nil || !d.own {
		return nil
	}
	return d
}

func (d *dir) setFrozen(on bool) error {
	if d.v2 {
		return writeFile(d.path+"/cgroup.freeze", map[bool]string{true: "1", false: "0"}[on])
	}
	return writeFile(d.path+"/freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[on])
}

// thawAll thaws the group and, for a kill, what was frozen below it: a v1 task
// does not die while any of its freezers holds it.
func (d *dir) thawAll() error {
	if err := d.setFrozen(false); err != nil {
		return err
	}
	for _, c := range children(d.path) {
		sub := dir{hierarchy: d.hierarchy, path: c}
		if err := sub.thawAll(); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// Freeze stops every process in the group and below, and returns when all have
// stopped. When ctx ends first the group is thawed again.
func (g *Group) Freeze(ctx context.Context) error {
	d := g.freezer()
	if d == nil {
		return fmt.Errorf("freeze cgroup %s: no freezer: %w", g.path, errors.ErrUnsupported)
	}
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		// v1: a task that forked while the state spread can keep a group
		// FREEZING for ever; writing again picks it up (freezer-subsystem.rst).
		if err := d.setFrozen(true); err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", g.path, err)
		}
		frozen, err := d.frozen()
		if err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", g.path, err)
		}
		if frozen {
			return nil
		}
		if err := sleep(ctx, wait); err != nil {
			_ = d.setFrozen(false)
			return fmt.Errorf("freeze cgroup %s: %w", g.path, err)
		}
	}
}

// Thaw lets a frozen group go on. It does not wait, and a group that is not
// frozen or no longer there is thawed already.
func (g *Group) Thaw() error {
	d := g.freezer()
	if d == nil {
		return nil
	}
	if err := d.setFrozen(false); err != nil && !gone(err) {
		return fmt.Errorf("thaw cgroup %s: %w", g.path, err)
	}
	return nil
}

// Frozen reports whether every process of the group is frozen, by Freeze or by
// an ancestor's.
func (g *Group) Frozen() (bool, error) {
	d := g.freezer()
	if d == nil {
		return false, nil
	}
	f, err := d.frozen()
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cgroup %s: %w", g.path, err)
	}
	return f, nil
}

func (d *dir) frozen() (bool, error) {
	if !d.v2 {
		b, err := os.ReadFile(d.path + "/freezer.state")
		return strings.TrimSpace(string(b)) == "FROZEN", err
	}
	b, err := os.ReadFile(d.path + "/cgroup.events")
	return strings.Contains("\n"+string(b), "\nfrozen 1\n"), err
}
