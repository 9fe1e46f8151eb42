package cgroup

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
)

// Mode says how the host has mounted its cgroup hierarchies.
type Mode int

const (
	Legacy  Mode = iota + 1 // v1 only
	Hybrid                  // v1 controllers, and a cgroup2 tree beside them
	Unified                 // cgroup2 only
)

func (m Mode) String() string {
	switch m {
	case Legacy:
		return "legacy"
	case Hybrid:
		return "hybrid"
	case Unified:
		return "unified"
	}
	return fmt.Sprintf("mode(%d)", int(m))
}

// unifiedName is the name under which the cgroup2 tree is looked up among the
// hierarchies; no v1 controller can be called so.
const unifiedName = "cgroup2"

// hierarchy is one mounted tree. Co-mounted v1 controllers ("cpu,cpuacct")
// share one; named ones without controllers are called "name=systemd".
type hierarchy struct {
	dir   string   // mount point
	names []string // v1 controllers, or the controllers the cgroup2 root offers
	v2    bool
}

// layout is all hierarchies of the host, cgroup2 last.
type layout struct {
	mode  Mode
	trees []hierarchy
}

// host is read once: a host does not remount its cgroups under running
// containers, and parsing the mount table grows with every pod. Never written.
var host = sync.OnceValues(readLayout)

// Detect reports how cgroups are mounted under /sys/fs/cgroup. It wraps
// fs.ErrNotExist when there are none.
func Detect() (Mode, error) {
	l, err := host()
	if err != nil {
		return 0, err
	}
	return l.mode, nil
}

// Controllers lists the controllers this host can limit, v1 and v2 together.
func Controllers() ([]string, error) {
	l, err := host()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, h := range l.trees {
		for _, n := range h.names {
			if !strings.HasPrefix(n, "name=") {
				all = append(all, n)
			}
		}
	}
	return all, nil
}

func readLayout() (*layout, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cgroup mounts: %w", err)
	}
	l := parseMounts(string(text))
	if len(l.trees) == 0 {
		return nil, fmt.Errorf("cgroup mounts: none under /sys/fs/cgroup: %w", fs.ErrNotExist)
	}
	if last := &l.trees[len(l.trees)-1]; last.v2 {
		text, err := os.ReadFile(last.dir + "/cgroup.controllers")
		if err != nil {
			return nil, fmt.Errorf("cgroup mounts: %w", err)
		}
		last.names = strings.Fields(string(text))
	}
	return l, nil
}

// parseMounts finds the hierarchies in the text of proc_pid_mountinfo(5). Only
// mounts at or under /sys/fs/cgroup count, and of several mounts of one
// hierarchy the first: bind mounts into containers look alike.
func parseMounts(text string) *layout {
	l := &layout{}
	var v2 *hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		dir, fstype, super, ok := parseMount(line)
		if !ok || seen[dir] {
			continue
		}
		if fstype == "cgroup2" && v2 == nil {
			v2 = &hierarchy{dir: dir, v2: true}
		}
		if names := v1Names(super); fstype == "cgroup" && len(names) > 0 && !seen[names[0]] {
			seen[names[0]] = true
			l.trees = append(l.trees, hierarchy{dir: dir, names: names})
		}
		seen[dir] = true
	}
	l.mode = Legacy
	if v2 != nil {
		l.mode = Hybrid
		if len(l.trees) == 0 {
			l.mode = Unified
		}
		l.trees = append(l.trees, *v2)
	}
	return l
}

func parseMount(line string) (dir, fstype, super string, ok bool) {
	head, tail, found := strings.Cut(line, " - ")
	f, t := strings.Fields(head), strings.Fields(tail)
	if !found || len(f) < 6 || len(t) < 3 {
		return "", "", "", false
	}
	if f[4] != "/sys/fs/cgroup" && !strings.HasPrefix(f[4], "/sys/fs/cgroup/") {
		return "", "", "", false
	}
	return f[4], t[0], t[2], true
}

// v1Names picks the controllers and the name out of super block options.
func v1Names(super string) []string {
	var names []string
	for _, o := range strings.Split(super, ",") {
		switch o {
		case "rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods":
			continue
		}
		if strings.HasPrefix(o, "release_agent=") {
			continue
		}
		names = append(names, o)
	}
	return names
}

// tree finds the hierarchy that has a controller, nil if none has.
func (l *layout) tree(controller string) *hierarchy {
	for i := range l.trees {
		h := &l.trees[i]
		if h.v2 && controller == unifiedName {
			return h
		}
		for _, n := range h.names {
			if n == controller {
				return h
			}
		}
	}
	return nil
}
