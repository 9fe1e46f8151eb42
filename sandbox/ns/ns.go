// Package ns makes, pins and enters the namespaces of a pod.
//
// Namespaces live as long as a process is in them or a mount of their nsfs file exists. A pod's have to outlive its processes,
// so they are made by a short-lived child, the holder (package hold), and pinned by bind mounts of its /proc/PID/ns files:
//
//	Spec.Spawn ──> the monitor clones the holder ──> it furnishes them and says "ok" ──> Pin ──> its stdin is closed
//	Dial           a connection from within the pod's network, for port forwarding
//	Unpin          lets go; the kernel frees what nobody is in
//	WithMounts     a program with a root file system that the host does not see
//	Attach         keeps a mount where it can be cloned and the host does not see it
//
// There is one way with and without user namespaces: clone makes the user namespace first, and the others belong to it.
// Where the holder stays as the init of a PID namespace, that namespace lives exactly as long as it.
package ns

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/ns/hold"
)

// Kind names a namespace as /proc/PID/ns does.
type Kind string

// The kinds a pod can have of its own.
const (
	Net  Kind = "net"
	IPC  Kind = "ipc"
	UTS  Kind = "uts"
	PID  Kind = "pid"
	User Kind = "user"
)

// IDMap is one line of a uid_map or gid_map.
type IDMap struct {
	ContainerID, HostID, Size uint32
}

// Spec says which namespaces a pod has of its own and how they are furnished.
type Spec struct {
	Net, IPC, UTS, PID, User bool
	// UIDMap and GIDMap are for User; both have to map 0.
	UIDMap, GIDMap []IDMap
	// Hostname is set in the UTS namespace where it is not empty.
	Hostname string
	// Sysctls, in dot or slash notation (sysctl(8)).
	Sysctls map[string]string
	// Stay makes the holder the init of the PID namespace: it stays and reaps.
	Stay bool
}

// Child is how the holder is started. It needs a pipe as standard input, whose other end keeps it (unless Stay), and one as
// standard output, on which it writes "ok\n" or why not.
type Child struct {
	Path           string
	Argv, Env      []string
	Clone          uintptr
	UIDMap, GIDMap []IDMap
}

// Spawn gives what is needed to start the holder, which is the program bin; "" means the monitor's own binary. Errors are
// fs.ErrInvalid.
func (s Spec) Spawn(bin string) (Child, error) {
	if bin == "" {
		bin = "/proc/self/exe"
	}
	c := Child{Path: bin, Argv: []string{hold.Name}}
	for _, k := range s.Kinds() {
		c.Clone |= k.flag()
	}
	if err := s.check(); err != nil {
		return Child{}, err
	}
	if s.User {
		c.UIDMap, c.GIDMap = s.UIDMap, s.GIDMap
	}
	if s.Stay {
		c.Argv[0] = hold.NamePod
	}
	conf := hold.Config{Net: s.Net, Hostname: s.Hostname, Stay: s.Stay}
	for name, value := range s.Sysctls {
		path, err := sysctlPath(name)
		if err != nil {
			return Child{}, err
		}
		conf.Sysctls = append(conf.Sysctls, hold.Sysctl{Path: path, Value: value})
	}
	slices.SortFunc(conf.Sysctls, func(a, b hold.Sysctl) int { return strings.Compare(a.Path, b.Path) })
	c.Env = conf.Env()
	for _, e := range c.Env {
		if strings.IndexByte(e, 0) >= 0 {
			return Child{}, fmt.Errorf("sysctl or hostname with a zero byte: %w", fs.ErrInvalid)
		}
	}
	return c, nil
}

// What a program sees that nobody else does, see WithMounts.
type (
	Mounts  = hold.Mounts
	Overlay = hold.Overlay
	Bind    = hold.Bind
)

// WithMounts makes a program that sees mounts made for it alone, in a mount namespace of its own: neither the host nor anything
// started later has them. It is what an OCI runtime needs that expects a mounted root file system. Overlay options are
// overlayfs's, in order, with each layer as "lowerdir+=DIR", the topmost first. argv[0] is an absolute path. Errors of the
// mounts are one line on standard error and exit status 1.
//
// The mount that a target lies on should be private, or else becomes a slave in that namespace, where a volume on it can't
// propagate to the host. A program that has clones only stays in the mount namespace it is started in.
func WithMounts(m Mounts, argv, env []string) Child {
	c := Child{
		Path: "/proc/self/exe",
		Argv: append([]string{hold.NameRoot}, argv...),
		Env:  append(m.Env(), env...),
	}
	if len(m.Overlays)+len(m.Binds) > 0 {
		c.Clone = unix.CLONE_NEWNS
	}
	return c
}

// check refuses what can't be.
func (s Spec) check() error {
	switch {
	case s.Stay && !s.PID:
		return fmt.Errorf("stay without a PID namespace: %w", fs.ErrInvalid)
	case s.Hostname != "" && !s.UTS:
		return fmt.Errorf("hostname without a UTS namespace: %w", fs.ErrInvalid)
	case s.User && !(mapsRoot(s.UIDMap) && mapsRoot(s.GIDMap)):
		return fmt.Errorf("user namespace without a mapping of 0: %w", fs.ErrInvalid)
	}
	return nil
}

// Kinds lists the namespaces of the pod's own.
func (s Spec) Kinds() []Kind {
	var kinds []Kind
	for _, k := range []struct {
		on   bool
		kind Kind
	}{{s.User, User}, {s.Net, Net}, {s.IPC, IPC}, {s.UTS, UTS}, {s.PID, PID}} {
		if k.on {
			kinds = append(kinds, k.kind)
		}
	}
	return kinds
}

// flag is the clone(2) flag of a kind.
func (k Kind) flag() uintptr {
	switch k {
	case Net:
		return unix.CLONE_NEWNET
	case IPC:
		return unix.CLONE_NEWIPC
	case UTS:
		return unix.CLONE_NEWUTS
	case PID:
		return unix.CLONE_NEWPID
	case User:
		return unix.CLONE_NEWUSER
	}
	return 0
}

// mapsRoot says whether id 0 is mapped.
func mapsRoot(m []IDMap) bool {
	return slices.ContainsFunc(m, func(e IDMap) bool { return e.ContainerID == 0 && e.Size > 0 })
}

// sysctlPath turns a sysctl's name into its path below /proc/sys, as sysctl(8) does: the first separator decides. After a dot,
// dots separate and slashes stand for dots ("net.ipv4.conf.eth0/1.mtu"); after a slash it is a path already.
func sysctlPath(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	if !fs.ValidPath(path) || path == "." || strings.ContainsAny(path, "=\x00") {
		return "", fmt.Errorf("sysctl %q: %w", name, fs.ErrInvalid)
	}
	return path, nil
}
