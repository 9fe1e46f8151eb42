package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Driver names who makes the directories.
type Driver string

const (
	Cgroupfs Driver = "cgroupfs" // this package, with mkdir
	Systemd  Driver = "systemd"  // systemd, as a scope unit, over D-Bus
)

// Group is one cgroup in every hierarchy. It is safe for concurrent use and
// needs no Close unless Stats was called.
type Group struct {
	path  string
	dirs  []dir
	lay   *layout
	unit  string       // systemd scope, "" with cgroupfs
	fresh bool         // made by us and never limited: nothing worth restoring
	hold  *placeholder // keeps a new scope from being collected while empty

	mu     sync.Mutex
	stats  *statFiles
	detail *detailFiles
}

// dir is a group's directory in one hierarchy.
type dir struct {
	*hierarchy
	path string
	own  bool // false in a sub group for hierarchies where it has no directory of its own
}

// Open returns the group at a cgroup path ("/a/b") as cgroupfs and systemd
// both lay it out, or a systemd form ("slice:prefix:name"). Nothing is created;
// fs.ErrNotExist if no hierarchy has it.
func Open(cgroupsPath string) (*Group, error) {
	g, err := newGroup(cgroupsPath)
	if err != nil {
		return nil, err
	}
	for _, d := range g.dirs {
		if unix.Access(d.path, unix.F_OK) == nil {
			return g, nil
		}
	}
	return nil, fmt.Errorf("cgroup %s: %w", g.path, fs.ErrNotExist)
}

// Create makes the group and the parents it lacks. It is idempotent. With the
// systemd driver the path has the form "slice:prefix:name" and names the scope
// prefix-name.scope; such a scope must be entered before Settle is called.
func Create(cgroupsPath string, driver Driver) (*Group, error) {
	return CreateFor(cgroupsPath, driver, nil)
}

// CreateFor is Create for a group that will get these limits: some systemd wants to know when the scope starts. They are not in
// force before Set.
func CreateFor(cgroupsPath string, driver Driver, r *Resources) (*Group, error) {
	g, err := newGroup(cgroupsPath)
	if err != nil {
		return nil, err
	}
	if (driver == Systemd) != (g.unit != "") {
		return nil, fmt.Errorf("cgroup %s: path does not fit driver %s: %w", cgroupsPath, driver, fs.ErrInvalid)
	}
	if g.unit != "" {
		if err := startScope(g, cgroupsPath, r); err != nil {
			return nil, fmt.Errorf("cgroup %s: %w", g.path, err)
		}
	}
	made, err := mkdirs(g)
	if err != nil {
		g.Settle()
		return nil, fmt.Errorf("cgroup %s: %w", g.path, err)
	}
	g.fresh = made
	return g, nil
}

// newGroup computes where a group lives.
func newGroup(cgroupsPath string) (*Group, error) {
	l, err := host()
	if err != nil {
		return nil, err
	}
	p, unit, err := resolve(cgroupsPath)
	if err != nil {
		return nil, fmt.Errorf("cgroup path %q: %w", cgroupsPath, err)
	}
	g := &Group{path: p, lay: l, unit: unit, dirs: make([]dir, len(l.trees))}
	for i := range l.trees {
		g.dirs[i] = dir{hierarchy: &l.trees[i], path: l.trees[i].dir + p, own: true}
	}
	return g, nil
}

// resolve turns an OCI cgroupsPath into a path below the hierarchies. The root
// itself and anything that climbs is refused: Remove works on what this says.
func resolve(cgroupsPath string) (p, unit string, err error) {
	if strings.Count(cgroupsPath, ":") == 2 && !strings.Contains(cgroupsPath, "/") {
		return scopePath(cgroupsPath)
	}
	if strings.ContainsAny(cgroupsPath, "\x00\n") {
		return "", "", fs.ErrInvalid
	}
	for part := range strings.SplitSeq(cgroupsPath, "/") {
		if part == ".." {
			return "", "", fs.ErrInvalid
		}
	}
	p = path.Clean("/" + cgroupsPath)
	if p == "/" {
		return "", "", fs.ErrInvalid
	}
	return p, "", nil
}

// Path is the cgroup path of the group, the same in every hierarchy.
func (g *Group) Path() string { return g.path }

// Mode is the mode of the host the group was made on.
func (g *Group) Mode() Mode { return g.lay.mode }

// Dirs lists the group's own directories by controller ("memory",
// "name=systemd"), cgroup2 under "".
func (g *Group) Dirs() map[string]string {
	m := map[string]string{}
	for _, d := range g.dirs {
		if !d.own {
			continue
		}
		if d.v2 {
			m[""] = d.path
			continue
		}
		for _, n := range d.names {
			m[n] = d.path
		}
	}
	return m
}

// Directories lists the group's own directories in the order of the hierarchies; none of no group.
func Directories(g *Group) []string {
	if g == nil {
		return nil
	}
	var list []string
	for _, d := range g.dirs {
		if d.own {
			list = append(list, d.path)
		}
	}
	return list
}

// Freezer is the directory whose state says whether the group is frozen, and which of the hierarchies is cgroup2's; "" where there
// is none.
func Freezer(g *Group) (freezer, unified string) {
	if g == nil {
		return "", ""
	}
	if d := g.freezer(); d != nil {
		freezer = d.path
	}
	for _, d := range g.dirs {
		if d.v2 {
			unified = d.path
		}
	}
	return freezer, unified
}

// OOMFile is a file with a line "oom_kill N" counting tasks that the OOM
// killer took from the group or below (v1 memory.oom_control, Linux 4.13; v2
// memory.events), "" when the host has no memory controller.
func (g *Group) OOMFile() string {
	d := g.dir("memory")
	switch {
	case d == nil:
		return ""
	case d.v2:
		return d.path + "/memory.events"
	}
	return d.path + "/memory.oom_control"
}

// dir finds the directory that has a controller, nil if the host lacks it.
func (g *Group) dir(controller string) *dir {
	h := g.lay.tree(controller)
	for i := range g.dirs {
		if h != nil && g.dirs[i].hierarchy == h {
			return &g.dirs[i]
		}
	}
	return nil
}

// Sub makes a group for some processes of g, an exec for example, so that they
// can be killed by themselves: a child in cgroup2 and, on v1, in the freezer
// hierarchy only ("--cgroup freezer:NAME"); in the other v1 hierarchies its
// processes are in g and share its limits. A hierarchy in which g is not, for a
// foreign runtime may leave cgroup2 beside v1 alone (gVisor's does), is left out;
// fs.ErrNotExist if g is in none of the two. It is idempotent.
func (g *Group) Sub(name string) (*Group, error) {
	s, err := subGroup(g, name)
	if err != nil {
		return nil, err
	}
	made := 0
	var missing error
	for i := 0; i < len(s.dirs); i++ {
		d := s.dirs[i]
		if !d.own {
			continue
		}
		err := os.Mkdir(d.path, 0o755)
		switch {
		case err == nil || errors.Is(err, fs.ErrExist):
			made++
		case errors.Is(err, fs.ErrNotExist):
			missing = err
			s.dirs = slices.Delete(s.dirs, i, i+1)
			i--
		default:
			s.Remove(context.Background())
			return nil, fmt.Errorf("cgroup %s: %w", s.path, err)
		}
	}
	if made == 0 && missing != nil {
		return nil, fmt.Errorf("cgroup %s: %w", s.path, missing)
	}
	return s, nil
}

// OpenSub returns a group that Sub made; fs.ErrNotExist if it is not there.
func (g *Group) OpenSub(name string) (*Group, error) {
	s, err := subGroup(g, name)
	if err != nil {
		return nil, err
	}
	for _, d := range s.dirs {
		if d.own && unix.Access(d.path, unix.F_OK) == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("cgroup %s: %w", s.path, fs.ErrNotExist)
}

func subGroup(g *Group, name string) (*Group, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\n\x00") {
		return nil, fmt.Errorf("cgroup %s: sub group %q: %w", g.path, name, fs.ErrInvalid)
	}
	s := &Group{path: g.path + "/" + name, lay: g.lay, dirs: make([]dir, len(g.dirs))}
	freezer := g.lay.tree("freezer")
	for i, d := range g.dirs {
		if d.own = d.v2 || d.hierarchy == freezer; d.own {
			d.path += "/" + name
		}
		s.dirs[i] = d
	}
	return s, nil
}

// Close gives back the descriptors that Stats and DetailOf keep.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stats.close()
	g.stats = nil
	g.detail.close()
	g.detail = nil
	return nil
}
