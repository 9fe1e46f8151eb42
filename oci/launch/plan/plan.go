package plan

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/oci/launch/hook"
	"github.com/berth-runtime/berth/oci/launch/program"
)

// Host is what has to be known of the host to decide.
type Host struct {
	ID, Bundle  string
	Nested      bool              // the runtime is in a user namespace itself
	Unified     bool              // cgroup v2 only
	CgroupPath  string            // of the container
	CgroupDirs  map[string]string // its directories by controller, cgroup2 under ""
	NoFile      program.Rlimit    // RLIMIT_NOFILE to give when the config is silent; Soft 0: leave
	Console     bool              // a console socket was given
	Listener    string            // socket for the seccomp notify descriptor, "" none
	PreserveFDs uint64
}

// Kind says how a Source is opened.
type Kind uint8

const (
	Bind      Kind = iota // clone of the tree at Path
	Overlay               // new file system from Options
	Null                  // clone of the host's null device, verified
	Listen                // the start socket
	Console               // the connected console socket
	Notify                // socket connected to Path, for the seccomp notify descriptor
	Node                  // clone of the host's device at Path, verified to have Mode's type and the number Rdev
	Namespace             // the namespace file at Path
)

// Source is something of the host that the init works on by descriptor.
type Source struct {
	Kind        Kind
	Path        string
	Field       string // for errors: "mounts[3]"
	Recursive   bool
	Set, Clear  uint64 // MOUNT_ATTR_*
	RecSet      uint64 // the same, for the whole tree
	RecClear    uint64
	Propagation uint64 // MS_*; with MS_REC for the whole tree; 0: leave
	Options     []string
	UIDs, GIDs  []specs.LinuxIDMapping // id-mapped mount
	RecMap      bool
	Type        string // overlay and other file systems made by create
	Mode, Rdev  uint64
}

// Hooks are the hooks the runtime runs itself.
type Hooks struct {
	Prestart, CreateRuntime, Poststart, Poststop []hook.Hook
}

// Plan is all that is to be done for a container.
type Plan struct {
	Program   program.Program
	Sources   []Source // slot i of the program
	Resources *cgroup.Resources
	Delegate  bool // the container's user shall own its cgroup
	Hooks     Hooks
	OOMScore  *int
}

// maker collects while the config is walked.
type maker struct {
	c     *Config
	host  Host
	p     *Plan
	made  []program.Step // file systems made by init, before the root is attached
	late  []program.Step // what has to wait until everything is mounted
	hooks bool           // some hook wants to see the root before the pivot
	user  bool           // the container has a user namespace of its own

	filled int // slots that steps fill
}

// Container decides about a whole container.
func (c *Config) Container(host Host, spaces *Spaces) (*Plan, error) {
	m := &maker{c: c, host: host, p: &Plan{}, user: host.Nested || spaces.User != "" || spaces.New&unix.CLONE_NEWUSER != 0}
	m.p.Program.Process.Security.Notify = -1
	m.p.Resources = resources(c.Linux.Resources)
	steps := [...]func() error{m.readHooks, m.process, func() error { return m.body(spaces) }}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return m.p, nil
}

// body lays down the setup steps in their order.
func (m *maker) body(spaces *Spaces) error {
	before := m.early(spaces)
	if p := m.c.Linux.MemoryPolicy; p != nil {
		step, err := memPolicy(p)
		if err != nil {
			return err
		}
		before = append(before, step)
	}
	root, err := m.rootSource()
	if err != nil {
		return err
	}
	var mounts []program.Step
	for i := range m.c.Mounts {
		if i == root.mount {
			continue
		}
		steps, err := m.mount(i, spaces)
		if err != nil {
			return err
		}
		mounts = append(mounts, steps...)
	}
	devices, err := m.devices()
	if err != nil {
		return err
	}
	sysctls, err := m.sysctls(spaces)
	if err != nil {
		return err
	}
	tail := m.readonlyAndMasks()
	attach := program.Step{Op: program.OpRoot, Slot: root.slot, Path: "/"}
	pivot := program.Step{Op: program.OpPivot, Slot: -1}
	if m.hooks && root.path != "" {
		attach.Path = root.path
	}
	setup := concat(before, m.made, sysctls,
		[]program.Step{{Op: program.OpPropagation, Slot: -1, Flags: unix.MS_SLAVE | unix.MS_REC, Path: "/"}, attach})
	if !m.hooks {
		setup = append(setup, pivot)
	}
	setup = concat(setup, mounts, devices, m.late, tail)
	if m.hooks {
		setup = concat(setup, m.hookSteps(), []program.Step{pivot})
	}
	setup = append(setup, m.rootPropagation()...)
	adopt, err := m.adopt(spaces)
	m.p.Program.Setup = append(setup, adopt...)
	m.slots()
	return err
}

// slots numbers the slots that steps fill behind those that are sent.
func (m *maker) slots() {
	n := len(m.p.Sources)
	for i := range m.p.Program.Setup {
		s := &m.p.Program.Setup[i]
		if s.Slot >= made {
			s.Slot += n - made
		}
		if (s.Op == program.OpMask || s.Op == program.OpConsole) && s.Num >= made {
			s.Num += int64(n - made)
		}
	}
	m.p.Program.Slots = n + m.filled
}

// made is where slots of file systems made by init begin until all sources are known.
const made = 1 << 20

// slot adds one that a step fills.
func (m *maker) slot() int {
	m.filled++
	return made + m.filled - 1
}

// make adds a file system made by init and returns its slot.
func (m *maker) make(kind string, options []string, attrs uint64, path string) int {
	slot := m.slot()
	m.made = append(m.made, program.Step{Op: program.OpFilesystem, Slot: slot, Data: kind, List: options, Flags: attrs, Path: path})
	return slot
}

// source adds something for create to open and returns its slot.
func (m *maker) source(s Source) int {
	m.p.Sources = append(m.p.Sources, s)
	return len(m.p.Sources) - 1
}

func (m *maker) early(spaces *Spaces) []program.Step {
	steps := []program.Step{{Op: program.OpKeyring, Slot: -1, Path: "_ses." + m.host.ID}}
	if m.c.Hostname != "" {
		steps = append(steps, program.Step{Op: program.OpHostname, Slot: -1, Data: m.c.Hostname})
	}
	if m.c.Domainname != "" {
		steps = append(steps, program.Step{Op: program.OpDomainname, Slot: -1, Data: m.c.Domainname})
	}
	if spaces.New&unix.CLONE_NEWNET != 0 {
		steps = append(steps, program.Step{Op: program.OpLoopback, Slot: -1, Data: "lo"})
	}
	return steps
}

// root is where the container's root comes from: slot of the source, index of the mount that makes it, host path.
type root struct {
	slot, mount int
	path        string
}

// rootSource finds the root file system: a mount of type overlay on "/", made detached, or the directory root.path.
func (m *maker) rootSource() (root, error) {
	path := m.c.Root.Path
	if path != "" && !filepath.IsAbs(path) {
		path = filepath.Join(m.host.Bundle, path)
	}
	for i, mt := range m.c.Mounts {
		if mt.Destination != "/" || mt.Type != "overlay" {
			continue
		}
		o, err := parseOptions(mt.Options)
		if err != nil {
			return root{}, invalid("mounts[%d].options: %v", i, err)
		}
		if l := m.c.Linux.MountLabel; l != "" {
			o.data = append(o.data, "context="+l)
		}
		slot := m.source(Source{Kind: Overlay, Type: "overlay", Field: fmt.Sprintf("mounts[%d]", i), Path: mt.Source, Options: o.data,
			Set: o.set, UIDs: mt.UIDMappings, GIDs: mt.GIDMappings})
		return root{slot: slot, mount: i, path: path}, nil
	}
	if path == "" {
		return root{}, invalid("root.path: empty")
	}
	slot := m.source(Source{Kind: Bind, Field: "root.path", Path: path, Recursive: true, Propagation: unix.MS_SLAVE | unix.MS_REC})
	return root{slot: slot, mount: -1, path: path}, nil
}

func (m *maker) readonlyAndMasks() []program.Step {
	steps := []program.Step{{Op: program.OpMkdir, Slot: -1, Path: m.c.Process.Cwd}}
	for _, p := range m.c.Linux.ReadonlyPaths {
		steps = append(steps, program.Step{Op: program.OpReadonly, Slot: -1, Path: p})
	}
	if len(m.c.Linux.MaskedPaths) > 0 {
		null := m.source(Source{Kind: Null, Path: "/dev/null", Field: "linux.maskedPaths"})
		empty := m.make("tmpfs", []string{"nr_blocks=1", "nr_inodes=1"}, unix.MOUNT_ATTR_RDONLY|noDevSuidExec, "masks")
		for _, p := range m.c.Linux.MaskedPaths {
			steps = append(steps, program.Step{Op: program.OpMask, Slot: null, Num: int64(empty), Path: p})
		}
	}
	if m.c.Root.Readonly {
		steps = append(steps, program.Step{Op: program.OpAttr, Slot: -1, Path: "/", Flags: unix.MOUNT_ATTR_RDONLY})
	}
	return steps
}

const noDevSuidExec = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

func (m *maker) rootPropagation() []program.Step {
	o, err := parseOptions([]string{m.c.Linux.RootfsPropagation})
	if err != nil || o.propagation == 0 {
		return nil
	}
	return []program.Step{share("/", o.propagation)}
}

func concat(lists ...[]program.Step) []program.Step {
	var all []program.Step
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func unsupported(field string) error {
	return fmt.Errorf("config.json: %s: %w", field, errors.ErrUnsupported)
}
