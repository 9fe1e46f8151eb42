package plan

import (
	"fmt"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// mount decides about mounts[i] and returns the steps that attach it.
func (m *maker) mount(i int, spaces *Spaces) ([]program.Step, error) {
	mt := &m.c.Mounts[i]
	o, err := parseOptions(mt.Options)
	if err != nil {
		return nil, invalid("mounts[%d].options: %v", i, err)
	}
	field := fmt.Sprintf("mounts[%d]", i)
	var steps []program.Step
	standIn := stand(mt, &o, spaces, m.user)
	switch {
	case o.remount:
		return remount(mt, &o, field)
	case standIn != nil:
		steps, err = m.bind(standIn, &o, field)
	case o.bind || mt.Type == "bind":
		steps, err = m.bind(mt, &o, field)
	case mt.Type == "overlay":
		steps = m.overlay(mt, &o, field)
	case len(mt.UIDMappings)+len(mt.GIDMappings) > 0:
		return nil, unsupported(field + ".uidMappings of a mount that is no bind")
	case mt.Type == "cgroup" || mt.Type == "cgroup2":
		steps, err = m.cgroups(mt, &o, field, spaces)
	case mt.Type == "":
		return nil, invalid("%s.type: empty and not a bind", field)
	default:
		steps = m.filesystem(mt, &o)
	}
	if err != nil {
		return nil, err
	}
	return append(steps, afterMount(mt, &o)...), nil
}

// stand returns the bind that stands for a file system that may not be mounted: one that shows a namespace that the
// container's user namespace does not own. o becomes the bind's options. It is nil for all other mounts.
func stand(mt *specs.Mount, o *options, spaces *Spaces, user bool) *specs.Mount {
	kind, path := uintptr(unix.CLONE_NEWNET), "/sys"
	switch {
	case !user || o.remount || o.bind:
		return nil
	case mt.Type == "sysfs":
	case mt.Type == "proc":
		// it shows just the processes the container is among
		kind, path = unix.CLONE_NEWPID, "/proc"
	default:
		return nil
	}
	if spaces.New&kind != 0 || joins(spaces, kind) {
		return nil
	}
	// with all that is mounted on it, since some of that hides things
	o.recursive, o.data = true, nil
	if mt.Type == "sysfs" { // the host's
		o.recSet |= unix.MOUNT_ATTR_RDONLY
	}
	return &specs.Mount{Destination: mt.Destination, Source: path}
}

func joins(s *Spaces, kind uintptr) bool {
	for _, j := range s.Join {
		if j.Kind == kind {
			return true
		}
	}
	return false
}

// afterMount sets what can only be set on an attached file system of the container's own.
func afterMount(mt *specs.Mount, o *options) []program.Step {
	var steps []program.Step
	if o.bind || mt.Type == "bind" {
		return nil
	}
	if o.recSet|o.recClear != 0 {
		steps = append(steps, attribute(mt.Destination, o.recSet, o.recClear, true))
	}
	if o.propagation != 0 {
		steps = append(steps, share(mt.Destination, o.propagation))
	}
	return steps
}

// attribute is the step that changes attributes of what is mounted at a path.
func attribute(path string, set, clear uint64, recursive bool) program.Step {
	s := program.Step{Op: program.OpAttr, Slot: -1, Path: path, Flags: set, Num: int64(clear << 1)}
	if recursive {
		s.Num |= 1
	}
	return s
}

// share is the step that changes the propagation of what is mounted at a path.
func share(path string, propagation uint64) program.Step {
	s := program.Step{Op: program.OpShare, Slot: -1, Path: path, Flags: propagation &^ unix.MS_REC}
	if propagation&unix.MS_REC != 0 {
		s.Num = 1
	}
	return s
}

// remount changes a mount that an earlier entry made, as mount(8) does: its own attributes, never those of the file
// system below, which others may share.
func remount(mt *specs.Mount, o *options, field string) ([]program.Step, error) {
	if len(o.data)+len(o.super) > 0 {
		return nil, unsupported(fmt.Sprintf("%s.options: remount with %v", field, append(o.super, o.data...)))
	}
	steps := []program.Step{attribute(mt.Destination, o.set, o.clear, false)}
	shape := *o
	shape.bind = false
	return append(steps, afterMount(&specs.Mount{Destination: mt.Destination}, &shape)...), nil
}

func (m *maker) bind(mt *specs.Mount, o *options, field string) ([]program.Step, error) {
	if len(o.data) > 0 { // the kernel would ignore them
		return nil, invalid("%s.options: %q on a bind mount", field, o.data)
	}
	if len(o.super) > 0 {
		m.c.warn("%s.options: %v: of the file system, not of a bind mount", field, o.super)
	}
	if mt.Source == "" {
		return nil, invalid("%s.source: empty", field)
	}
	source := mt.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(m.host.Bundle, source)
	}
	if len(mt.UIDMappings) != 0 != (len(mt.GIDMappings) != 0) {
		return nil, invalid("%s: uidMappings and gidMappings go together", field)
	}
	s := Source{Kind: Bind, Field: field, Path: source, Recursive: o.recursive, Set: o.set, Clear: o.clear &^ unix.MOUNT_ATTR_RDONLY,
		RecSet: o.recSet, RecClear: o.recClear, Propagation: o.propagation, UIDs: mt.UIDMappings, GIDs: mt.GIDMappings, RecMap: o.recIDMap}
	if o.idmap && len(s.UIDs) == 0 {
		s.UIDs, s.GIDs = m.c.Linux.UIDMappings, m.c.Linux.GIDMappings
		if len(s.UIDs) == 0 {
			return nil, invalid("%s: idmap without mappings", field)
		}
	}
	if s.Propagation == 0 {
		s.Propagation = unix.MS_SLAVE | unix.MS_REC
	}
	return []program.Step{{Op: program.OpMount, Slot: m.source(s), Path: mt.Destination}}, nil
}

// overlay has create make it, like the root: its layers are paths of the host, id-mapped if asked.
func (m *maker) overlay(mt *specs.Mount, o *options, field string) []program.Step {
	data := append(o.super, o.data...)
	if l := m.c.Linux.MountLabel; l != "" {
		data = append(data, "context="+l)
	}
	slot := m.source(Source{Kind: Overlay, Type: "overlay", Field: field, Path: mt.Source, Options: data, Set: o.set, UIDs: mt.UIDMappings, GIDs: mt.GIDMappings})
	return []program.Step{{Op: program.OpMount, Slot: slot, Path: mt.Destination}}
}

// filesystem has init make a file system of the container's own namespaces. A read-only tmpfs becomes that after
// everything below it is in place.
func (m *maker) filesystem(mt *specs.Mount, o *options) []program.Step {
	attrs, data := o.set, append(o.super, o.data...)
	if mt.Type == "tmpfs" && attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		attrs &^= unix.MOUNT_ATTR_RDONLY
		m.late = append(m.late, program.Step{Op: program.OpAttr, Slot: -1, Path: mt.Destination, Flags: unix.MOUNT_ATTR_RDONLY})
	}
	if l := m.c.Linux.MountLabel; l != "" && (mt.Type == "tmpfs" || mt.Type == "devpts") {
		data = append(data, "context="+l) // SELinux; without it the kernel knows no such option
	}
	if mt.Source != "" && mt.Source != "none" {
		data = append([]string{"source=" + mt.Source}, data...)
	}
	op := program.OpMount
	if o.copyUp {
		op = program.OpCopyUp
	}
	return []program.Step{{Op: op, Slot: m.make(mt.Type, data, attrs, mt.Destination), Path: mt.Destination}}
}

// cgroups shows the container its own cgroups: on v2 a mount of its namespace, on v1 one bind per hierarchy.
func (m *maker) cgroups(mt *specs.Mount, o *options, field string, spaces *Spaces) ([]program.Step, error) {
	if m.host.Unified {
		if spaces.New&unix.CLONE_NEWCGROUP != 0 {
			// "Cgroup ownership": when its own cgroup is what the container sees, and writes to
			m.p.Delegate = m.p.Delegate || mt.Source == "cgroup" && mt.Destination == "/sys/fs/cgroup" && o.set&unix.MOUNT_ATTR_RDONLY == 0
			slot := m.make("cgroup2", append([]string{"source=cgroup"}, o.data...), o.set, mt.Destination)
			return []program.Step{{Op: program.OpMount, Slot: slot, Path: mt.Destination}}, nil
		}
		return m.cgroupBind(m.host.CgroupDirs[""], mt.Destination, o, field), nil
	}
	if m.host.CgroupPath == "" { // the container has no cgroup: those of the runtime, which show it as much
		shown := *o
		shown.recursive, shown.recSet, shown.data = true, o.recSet|unix.MOUNT_ATTR_RDONLY, nil
		return m.bind(&specs.Mount{Destination: mt.Destination, Source: "/sys/fs/cgroup"}, &shown, field)
	}
	if len(o.data) > 0 {
		m.c.warn("%s.options: %v: not of cgroup v1", field, o.data)
	}
	slot := m.make("tmpfs", []string{"source=tmpfs", "mode=755"}, o.set&^unix.MOUNT_ATTR_RDONLY, mt.Destination)
	steps := []program.Step{{Op: program.OpMount, Slot: slot, Path: mt.Destination}}
	names := make([]string, 0, len(m.host.CgroupDirs))
	for name := range m.host.CgroupDirs {
		names = append(names, name)
	}
	sort.Strings(names)
	seen := map[string]bool{}
	for _, name := range names {
		dir := m.host.CgroupDirs[name]
		base := path.Base(strings.TrimSuffix(dir, m.host.CgroupPath))
		if !seen[base] {
			steps = append(steps, m.cgroupBind(dir, mt.Destination+"/"+base, o, field)...)
		}
		seen[base] = true
		if strings.Contains(base, ",") && name != base {
			steps = append(steps, program.Step{Op: program.OpSymlink, Slot: -1, Path: mt.Destination + "/" + name, Data: base})
		}
	}
	if o.set&unix.MOUNT_ATTR_RDONLY != 0 {
		m.late = append(m.late, program.Step{Op: program.OpAttr, Slot: -1, Path: mt.Destination, Flags: unix.MOUNT_ATTR_RDONLY})
	}
	return steps, nil
}

func (m *maker) cgroupBind(dir, dest string, o *options, field string) []program.Step {
	s := Source{Kind: Bind, Field: field, Path: dir, Set: o.set, RecSet: o.recSet, RecClear: o.recClear, Propagation: unix.MS_SLAVE}
	return []program.Step{{Op: program.OpMount, Slot: m.source(s), Path: dest}}
}
