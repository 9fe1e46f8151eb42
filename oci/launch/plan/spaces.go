package plan

import (
	"fmt"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// Spaces are the namespaces: New are CLONE_NEW* flags, Join paths by flag.
type Spaces struct {
	New     uintptr
	Join    []Space
	User    string // path of a user namespace to join
	Mount   string // path of the mount namespace to be in, which is not the one the container's tree is made in
	UIDs    []specs.LinuxIDMapping
	GIDs    []specs.LinuxIDMapping
	Offsets string    // text for timens_offsets of the new time namespace
	Devices []Device  // network devices to move
	Foreign []Foreign // namespaces that must not be the runtime's own
}

// Space is a namespace to join.
type Space struct {
	Kind uintptr
	Path string
}

// Device is a network device of the runtime's namespace and its name in the container's.
type Device struct {
	From, To string
}

// Foreign is a field that would change the runtime's own namespace, if that were the one joined.
type Foreign struct {
	Kind  uintptr
	Field string
}

// ownMount is the mount namespace the runtime runs in, which is what a config that names none asks for.
const ownMount = "/proc/self/ns/mnt"

// Spaces reads the namespaces.
func (c *Config) Spaces() (*Spaces, error) {
	s := &Spaces{UIDs: c.Linux.UIDMappings, GIDs: c.Linux.GIDMappings}
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range c.Linux.Namespaces {
		kind := spaceKinds(ns.Type)
		switch {
		case kind == 0:
			return nil, invalid("linux.namespaces[%d].type %q: not known", i, ns.Type)
		case seen[ns.Type]:
			return nil, invalid("linux.namespaces[%d]: second one of type %s", i, ns.Type)
		case ns.Path != "" && (ns.Path[0] != '/' || strings.ContainsRune(ns.Path, 0)):
			return nil, invalid("linux.namespaces[%d].path %q: not an absolute path", i, ns.Path)
		case ns.Path == "":
			s.New |= kind
		case kind == unix.CLONE_NEWNS:
			s.Mount = ns.Path
		case kind == unix.CLONE_NEWUSER:
			s.User = ns.Path
		default:
			s.Join = append(s.Join, Space{kind, ns.Path})
		}
		seen[ns.Type] = true
	}
	if !seen[specs.MountNamespace] {
		s.Mount = ownMount
	}
	s.New |= unix.CLONE_NEWNS // the container's tree is made in one of its own whatever it ends up in
	if err := c.checkSpaces(s, seen); err != nil {
		return nil, err
	}
	if c.Hostname != "" || c.Domainname != "" {
		s.Foreign = append(s.Foreign, Foreign{unix.CLONE_NEWUTS, "hostname, domainname"})
	}
	return s, nil
}

// checkSpaces refuses settings of namespaces that are not there.
func (c *Config) checkSpaces(s *Spaces, seen map[specs.LinuxNamespaceType]bool) error {
	switch {
	case s.New&unix.CLONE_NEWUSER != 0 && (len(s.UIDs) == 0 || len(s.GIDs) == 0):
		return invalid("linux.uidMappings, gidMappings: missing for a new user namespace")
	case len(s.UIDs)+len(s.GIDs) > 0 && !seen[specs.UserNamespace]:
		return invalid("linux.uidMappings, gidMappings: no namespace of type user")
	case c.Hostname != "" && !seen[specs.UTSNamespace], c.Domainname != "" && !seen[specs.UTSNamespace]:
		return invalid("hostname, domainname: no namespace of type uts")
	case len(c.Linux.NetDevices) > 0 && !seen[specs.NetworkNamespace]:
		return invalid("linux.netDevices: no namespace of type network")
	case len(c.Linux.TimeOffsets) > 0 && s.New&unix.CLONE_NEWTIME == 0:
		return invalid("linux.timeOffsets: no new namespace of type time")
	}
	if err := c.timeOffsets(s); err != nil {
		return err
	}
	return c.netDevices(s)
}

// timeOffsets makes the text of time_namespaces(7). Offsets can be set while nobody is in the namespace.
func (c *Config) timeOffsets(s *Spaces) error {
	for _, clock := range sortedKeys(c.Linux.TimeOffsets) {
		o := c.Linux.TimeOffsets[clock]
		switch {
		case clock != "monotonic" && clock != "boottime":
			return invalid("linux.timeOffsets: clock %q not known", clock)
		case o.Nanosecs > 999_999_999:
			return invalid("linux.timeOffsets.%s.nanosecs: %d is a second or more", clock, o.Nanosecs)
		}
		s.Offsets += fmt.Sprintf("%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	return nil
}

func (c *Config) netDevices(s *Spaces) error {
	taken := map[string]bool{}
	for _, name := range sortedKeys(c.Linux.NetDevices) {
		to := c.Linux.NetDevices[name].Name
		if to == "" {
			to = name
		}
		switch {
		case !deviceName(name) || strings.Contains(name, "%"):
			return invalid("linux.netDevices: %q is no name of a network device", name)
		case !deviceName(to):
			return invalid("linux.netDevices.%s.name: %q is no name of a network device", name, to)
		case taken[to] && !strings.Contains(to, "%d"):
			return invalid("linux.netDevices.%s.name: %q twice", name, to)
		}
		taken[to] = true
		s.Devices = append(s.Devices, Device{name, to})
	}
	if len(s.Devices) > 0 {
		s.Foreign = append(s.Foreign, Foreign{unix.CLONE_NEWNET, "linux.netDevices"})
	}
	return nil
}

// deviceName follows dev_valid_name of the kernel (net/core/dev.c).
func deviceName(s string) bool {
	return s != "" && len(s) < unix.IFNAMSIZ && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// spaceKinds is the kernel's name of a type, 0 for one that is not known.
func spaceKinds(t specs.LinuxNamespaceType) uintptr {
	return map[specs.LinuxNamespaceType]uintptr{
		specs.PIDNamespace: unix.CLONE_NEWPID, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.MountNamespace: unix.CLONE_NEWNS, specs.IPCNamespace: unix.CLONE_NEWIPC,
		specs.UTSNamespace: unix.CLONE_NEWUTS, specs.UserNamespace: unix.CLONE_NEWUSER, specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
	}[t]
}

// adopt puts the finished container into a mount namespace that is not its own: a clone of its tree, attached nowhere,
// becomes the root of its process there. So nothing is mounted in that namespace, and nothing is left in it. The
// container can mount nothing itself: the kernel refuses mounts on trees outside of the namespace (mount(2), EINVAL).
func (m *maker) adopt(spaces *Spaces) ([]program.Step, error) {
	if spaces.Mount == "" {
		return nil, nil
	}
	if p := m.c.Linux.RootfsPropagation; propagationWord(p)&unix.MS_UNBINDABLE != 0 {
		return nil, invalid("linux.rootfsPropagation %q: in a mount namespace that is not the container's own", p)
	}
	for i, mt := range m.c.Mounts {
		if o, _ := parseOptions(mt.Options); o.propagation&unix.MS_UNBINDABLE != 0 {
			return nil, invalid("mounts[%d].options: unbindable in a mount namespace that is not the container's own", i)
		}
	}
	tree := m.slot()
	space := m.source(Source{Kind: Namespace, Path: spaces.Mount, Field: "linux.namespaces: mount"})
	return []program.Step{{Op: program.OpTree, Slot: tree, Path: "/"}, {Op: program.OpSetns, Slot: space, Path: spaces.Mount},
		{Op: program.OpChroot, Slot: tree, Path: "/"}}, nil
}

// has says whether the container has a namespace of a kind that it does not share with the runtime by default.
func (s *Spaces) has(kind uintptr) bool {
	return s.New&kind != 0 || joins(s, kind) || kind == unix.CLONE_NEWUSER && s.User != ""
}

// sysctls are written before anything of the container is attached; keys may be written with dots or slashes. Only
// parameters of a namespace the container has are: any other would change the host.
func (m *maker) sysctls(spaces *Spaces) ([]program.Step, error) {
	var steps []program.Step
	for _, key := range sortedKeys(m.c.Linux.Sysctl) {
		value := m.c.Linux.Sysctl[key]
		if key == "" || strings.Contains(key, "..") || strings.HasPrefix(key, "/") || strings.ContainsRune(key+value, 0) {
			return nil, invalid("linux.sysctl[%q]: not a name", key)
		}
		path := sysctlPath(key)
		kind := sysctlSpace(path)
		switch {
		case path == "kernel/hostname":
			return nil, invalid("linux.sysctl[%q]: hostname is a field of its own", key)
		case kind == 0:
			return nil, invalid("linux.sysctl[%q]: not of a namespace: it would change the host", key)
		case !spaces.has(kind):
			return nil, invalid("linux.sysctl[%q]: of a namespace the container shares with the host", key)
		}
		spaces.Foreign = append(spaces.Foreign, Foreign{kind, fmt.Sprintf("linux.sysctl[%q]", key)})
		steps = append(steps, program.Step{Op: program.OpSysctl, Slot: -1, Path: path, Data: value})
	}
	return steps, nil
}

// sysctlSpace names the namespace a kernel parameter belongs to; 0: none.
func sysctlSpace(path string) uintptr {
	switch path {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni",
		"kernel/shm_rmid_forced", "kernel/msg_next_id", "kernel/sem_next_id", "kernel/shm_next_id", "kernel/auto_msgmni":
		return unix.CLONE_NEWIPC
	case "kernel/domainname":
		return unix.CLONE_NEWUTS
	}
	switch dir, _, _ := strings.Cut(path, "/"); {
	case strings.HasPrefix(path, "fs/mqueue/"):
		return unix.CLONE_NEWIPC
	case dir == "net":
		return unix.CLONE_NEWNET
	case dir == "user":
		return unix.CLONE_NEWUSER
	}
	return 0
}

// sysctlPath follows sysctl(8): the first separator found, dot or slash, is the one; the other is a plain character
// ("net.ipv4.conf.eth0/1.forwarding" means eth0.1).
func sysctlPath(key string) string {
	i := strings.IndexAny(key, "./")
	if i < 0 || key[i] == '/' {
		return key
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(key)
}
