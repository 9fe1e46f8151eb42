package plan

import (
	"fmt"
	"path"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/oci/launch/program"
)

// node is a device that every container has (config-linux.md, "Default Devices").
type node struct {
	path         string
	major, minor int64
}

// defaultNodes is a table; it is never written.
var defaultNodes = [...]node{{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8},
	{"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}}

// links is a table; it is never written.
var links = [...][2]string{{"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"}, {"/dev/stdout", "/proc/self/fd/1"},
	{"/dev/stderr", "/proc/self/fd/2"}, {"/dev/core", "/proc/kcore"}, {"/dev/ptmx", "pts/ptmx"}}

// devices fills /dev, unless the config binds a ready one there.
func (m *maker) devices() ([]program.Step, error) {
	var steps []program.Step
	bound := m.bound("/dev")
	own := map[string]bool{}
	for i, d := range m.c.Linux.Devices {
		s, err := m.device(i, d)
		if err != nil {
			return nil, err
		}
		own[path.Clean(d.Path)] = true
		if !bound {
			steps = append(steps, s)
		}
	}
	if !bound {
		for _, n := range defaultNodes {
			if !own[n.path] {
				steps = append(steps, m.node(n.path, unix.S_IFCHR|0o666, unix.Mkdev(uint32(n.major), uint32(n.minor)), nil, n.path))
			}
		}
		for _, l := range links {
			steps = append(steps, program.Step{Op: program.OpSymlink, Slot: -1, Path: l[0], Data: l[1]})
		}
	}
	console, err := m.console()
	return append(steps, console...), err
}

// bound reports whether the config binds something at a path.
func (m *maker) bound(dest string) bool {
	for _, mt := range m.c.Mounts {
		o, _ := parseOptions(mt.Options)
		if path.Clean(mt.Destination) == dest && (o.bind || mt.Type == "bind") {
			return true
		}
	}
	return false
}

func (m *maker) device(i int, d specs.LinuxDevice) (program.Step, error) {
	mode := uint64(0o666)
	if d.FileMode != nil {
		mode = uint64(*d.FileMode) & 0o7777
	}
	switch d.Type {
	case "c", "u":
		mode |= unix.S_IFCHR
	case "b":
		mode |= unix.S_IFBLK
	case "p":
		mode |= unix.S_IFIFO
	default:
		return program.Step{}, invalid("linux.devices[%d].type %q: not known", i, d.Type)
	}
	if !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" {
		return program.Step{}, invalid("linux.devices[%d].path %q: not an absolute path", i, d.Path)
	}
	owner := []string{"0", "0"}
	if d.UID != nil {
		owner[0] = strconv.FormatUint(uint64(*d.UID), 10)
	}
	if d.GID != nil {
		owner[1] = strconv.FormatUint(uint64(*d.GID), 10)
	}
	return m.node(d.Path, mode, unix.Mkdev(uint32(d.Major), uint32(d.Minor)), owner, fmt.Sprintf("linux.devices[%d]", i)), nil
}

// node makes a device, or in a user namespace, where nodes can't be made, binds the host's of the same path.
func (m *maker) node(p string, mode, rdev uint64, owner []string, field string) program.Step {
	if m.user && mode&unix.S_IFMT != unix.S_IFIFO {
		slot := m.source(Source{Kind: Node, Path: p, Field: field, Mode: mode & unix.S_IFMT, Rdev: rdev})
		return program.Step{Op: program.OpMount, Slot: slot, Path: p}
	}
	return program.Step{Op: program.OpDevice, Slot: -1, Path: p, Flags: mode, Num: int64(rdev), List: owner}
}

// console needs a devpts of the container's own and a socket to send the pty's master to.
func (m *maker) console() ([]program.Step, error) {
	p := m.c.Process
	switch {
	case p.Terminal && !m.host.Console:
		return nil, invalid("process.terminal: no --console-socket given")
	case !p.Terminal && m.host.Console:
		return nil, invalid("process.terminal: false, but --console-socket given")
	case !p.Terminal:
		return nil, nil
	}
	s := Pty(p.ConsoleSize, m.source(Source{Kind: Console}))
	s.Data = "create"
	return []program.Step{s}, nil
}

// Pty is the step that makes a pty and sends its master to the socket in a slot.
func Pty(b *specs.Box, socket int) program.Step {
	return program.Step{Op: program.OpConsole, Slot: -1, Num: int64(socket), Flags: size(b)}
}

func size(b *specs.Box) uint64 {
	if b == nil {
		return 0
	}
	return uint64(b.Height&0xffff)<<16 | uint64(b.Width&0xffff)
}

// resources adds to the device rules, where there are any, what every container needs (as all runtimes do): making
// nodes of any kind, which gives no access, and the default devices.
func resources(r *cgroup.Resources) *cgroup.Resources {
	if r == nil || len(r.Devices) == 0 {
		return r
	}
	n := func(v int64) *int64 { return &v }
	add := func(kind, access string, major, minor *int64) {
		r.Devices = append(r.Devices, cgroup.Device{Allow: true, Type: kind, Major: major, Minor: minor, Access: access})
	}
	add("c", "m", nil, nil)
	add("b", "m", nil, nil)
	for _, d := range defaultNodes {
		add("c", "rwm", n(d.major), n(d.minor))
	}
	add("c", "rwm", n(5), n(1))  // console
	add("c", "rwm", n(5), n(2))  // ptmx
	add("c", "rwm", n(136), nil) // pts
	return r
}
