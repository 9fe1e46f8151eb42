package cgroup

import "path"

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
