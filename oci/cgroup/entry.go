package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is what a process needs to be born in a group. All descriptors are
// close-on-exec and the caller's to Close.
type Entry struct {
	// Dir is the cgroup2 directory for CLONE_INTO_CGROUP (clone3, Linux 5.7),
	// nil on legacy hosts.
	Dir *os.File
	// Tasks are the v1 `tasks` files, open for writing, one per hierarchy. The
	// child writes "0" to each while it has one thread: nothing waits then. The
	// right to do so is that of the opener, so the child may be in a user
	// namespace already.
	Tasks []*os.File
}

// Entry opens the way into g.
func (g *Group) Entry() (Entry, error) {
	var e Entry
	for _, d := range g.dirs {
		name, flags := d.path+"/tasks", unix.O_WRONLY
		if d.v2 {
			name, flags = d.path, unix.O_RDONLY|unix.O_DIRECTORY
		}
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			e.Close()
			return Entry{}, fmt.Errorf("enter cgroup %s: %w", g.path, &fs.PathError{Op: "open", Path: name, Err: err})
		}
		if f := os.NewFile(uintptr(fd), name); d.v2 {
			e.Dir = f
		} else {
			e.Tasks = append(e.Tasks, f)
		}
	}
	return e, nil
}

// Close closes all descriptors.
func (e Entry) Close() error {
	var errs []error
	if e.Dir != nil {
		errs = append(errs, e.Dir.Close())
	}
	for _, f := range e.Tasks {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Add moves a running process into g, all its threads. It waits for an RCU
// grace period and is only for processes that could not be born there.
func (g *Group) Add(pid int) error {
	for _, d := range g.dirs {
		if err := writeFile(d.path+"/cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", g.path, err)
		}
	}
	return nil
}

// AddTree moves a running process and all its descendants into g. What they start meanwhile is born where its parent is, so this
// goes on until there is nobody new. A process that has ended is no error.
func AddTree(g *Group, pid int) error {
	for todo, seen := []int{pid}, map[int]bool{}; len(todo) > 0; todo = todo[1:] {
		one := todo[0]
		if seen[one] {
			continue
		}
		seen[one] = true
		if err := g.Add(one); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		tasks, err := os.ReadDir("/proc/" + strconv.Itoa(one) + "/task")
		if err != nil {
			continue
		}
		for _, t := range tasks { // proc_pid_task_children(5)
			b, _ := os.ReadFile("/proc/" + strconv.Itoa(one) + "/task/" + t.Name() + "/children")
			for _, f := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(f); err == nil {
					todo = append(todo, child)
				}
			}
		}
	}
	return nil
}

// Arg names a sub group for the option --cgroup of an OCI runtime's exec, which is relative to the container's group:
// "freezer:NAME" where Sub makes a directory in the freezer hierarchy only, "NAME" on cgroup2.
func (g *Group) Arg() string {
	if g.lay.mode == Unified {
		return path.Base(g.path)
	}
	return "freezer:" + path.Base(g.path)
}

// OOMFile is Group.OOMFile for a group that need not exist yet; "" for a path that is none.
func OOMFile(cgroupsPath string) string {
	g, err := newGroup(cgroupsPath)
	if err != nil {
		return ""
	}
	return g.OOMFile()
}

// Prune removes the group where it has neither processes nor groups below it, and leaves it be otherwise.
func (g *Group) Prune() {
	for _, d := range g.dirs {
		unix.Rmdir(d.path) // EBUSY or ENOTEMPTY: somebody else's need for it goes on
	}
}
