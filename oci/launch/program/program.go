// Package program is the language in which `create` and `exec` tell a container's init what to do.
//
// A config.json is decided upon once, outside of the container. What reaches the init is a Program: a straight list of
// Steps, each one kernel effect, with the descriptors they work on, and the Process to become at the end. There are no
// conditions and no names of the host in it; a step that does not work ends the init with that step's name and path.
//
//	config.json ── plan ──> Program ── socket, SCM_RIGHTS ──> init: steps in order ──> "ready" ──> start? ──> Process
//
// Descriptors are referred to by slot. Slots 0..n-1 are the descriptors sent along, in order; the ones after are filled
// by steps that make one (OpFilesystem).
//
// The form on the wire is length-prefixed and bounded (codec.go); the reader trusts nothing, and is fuzzed.
package program

// Op is what a Step does.
type Op uint8

// The steps. Path is a path inside the container unless said otherwise; it is resolved beneath the container's root,
// never through magic links.
const (
	OpNone        Op = iota
	OpKeyring        // new session keyring called Path
	OpHostname       // Data
	OpDomainname     // Data
	OpLoopback       // bring lo up
	OpPropagation    // Flags (MS_*) on the old root, recursively
	OpFilesystem     // make a detached file system: Data type, List options, Flags MOUNT_ATTR_*; into Slot
	OpRoot           // attach Slot; it is the container's root from now on
	OpPivot          // make it the root of the namespace, drop the old one
	OpHooks          // have the parent run the hooks called Data, wait for it
	OpRun            // run the program Path with arguments List and input Data; package hook
	OpMount          // attach Slot at Path; missing targets are made
	OpBind           // clone Data (a path inside) with Flags and attach it at Path
	OpAttr           // Flags MOUNT_ATTR_* set on the mount at Path, Num>>1 cleared; Num&1: recursively
	OpShare          // Flags (MS_*) propagation of the mount at Path; Num 1: recursively
	OpCopyUp         // fill the tmpfs in Slot with what Path holds, then attach it there
	OpDevice         // node at Path: Flags mode with type, Num device number, List uid, gid
	OpSymlink        // link at Path to Data; an existing entry stays
	OpMask           // hide Path: Slot null device, Num slot of an empty read-only directory
	OpReadonly       // bind Path over itself read-only
	OpSysctl         // Path (dots as slashes) = Data
	OpConsole        // new pty of the devpts in Slot (-1: the one at /dev/pts); Num slot of the console socket; Flags rows<<16|cols; Data "create": bind /dev/console
	OpSetns          // enter the mount namespace in Slot
	OpMemPolicy      // Flags mode, List nodes
	OpMkdir          // make the directory Path when it is missing
	OpTree           // clone the container's root with all mounts below into Slot
	OpChroot         // make the tree in Slot the root
	opEnd
)

// Step is one effect. Unused fields are zero; Slot is -1 where none is meant.
type Step struct {
	Op    Op
	Slot  int
	Flags uint64
	Num   int64
	Path  string
	Data  string
	List  []string
}

// Capabilities are the five sets as bit masks.
type Capabilities struct {
	Bounding, Effective, Inheritable, Permitted, Ambient uint64
}

// Rlimit is one resource limit; Soft and Hard in the unit of setrlimit(2).
type Rlimit struct {
	Resource, Soft, Hard uint64
}

// Security is what confines the process.
type Security struct {
	Caps        *Capabilities // nil: keep what init has
	NoNewPrivs  bool
	Filter      []byte // in the form of seccomp.Encode; empty: none
	Notify      int    // slot of the connected socket that gets the notify descriptor, -1
	NotifyState []byte // sent with it
	AppArmor    string
	SELinux     string
	Personality uint64 // Persona: set it
	Persona     bool
}

// Schedule is how the process competes for processors and disks.
type Schedule struct {
	Set                       bool
	Policy, Flags, Priority   uint64
	Nice                      int64
	Runtime, Deadline, Period uint64
	IOPrio                    uint64 // class<<13|data; IOSet
	IOSet                     bool
}

// Process is what init becomes.
type Process struct {
	Args, Env []string
	Cwd       string
	UID, GID  uint32
	Groups    []uint32
	SetGroups bool
	Umask     uint32
	Rlimits   []Rlimit
	Security  Security
	Schedule  Schedule
	Terminal  bool
	KeepFDs   uint64 // descriptors 3..3+KeepFDs-1 stay open
	Affinity  string // CPU list to run on from the exec on
}

// Program is everything an init is told.
type Program struct {
	Slots   int // all slots, those sent included
	Setup   []Step
	Finish  []Step // after start: startContainer hooks
	Listen  int    // slot of the listening start socket; -1: no waiting
	Process Process
}
