// Package wire is the language between the daemon and the monitor of a pod.
//
// The two speak over a SOCK_SEQPACKET unix socket: one JSON object per packet, descriptors beside it by SCM_RIGHTS.
//
//	daemon  ── Request{seq, op, …} + descriptors ──>  monitor
//	        <── Reply{seq, err | …}  + descriptors ──           one for each request, in any order
//	        <── Reply{exit}                         ──           events carry no seq
//
// The language only grows: a monitor lives as long as its pod and is spoken to by whatever daemon is installed by then.
// Fields are added and never change their meaning; both sides ignore what they do not know; Version says what the other side
// knows. An operation that a monitor does not know is answered with ENOSYS.
//
// The package imports no more than the monitor can afford; see the budget in test/house.
package wire

import "syscall"

const (
	// Version is the "v" of packets made by this package.
	Version = 1
	// MaxPacket bounds a packet in bytes. The socket buffers of both sides are raised to hold one.
	MaxPacket = 256 << 10
	// MaxFiles bounds the descriptors beside one packet.
	MaxFiles = 64
	// MaxStderr bounds Spawned.Stderr in bytes.
	MaxStderr = 4 << 10
	// DefaultLogMax is the content of a log line in bytes where Spawn.LogMax is zero or negative.
	DefaultLogMax = 16 << 10
	// LimitLogMax is the largest LogMax; larger values are lowered to it.
	LimitLogMax = 64 << 10
)

// Names of the two files a monitor's directory has beside the namespaces.
const (
	SocketName = "monitor.sock"
	LockName   = "monitor.lock"
)

// Descriptors a monitor is born with.
const (
	ListenFD = 3 // listening SOCK_SEQPACKET socket
	LockFD   = 4 // lock file, locked (open file description lock)
)

// Op names what a Request asks for.
type Op string

// The operations. What each reads of a Request is said at the fields.
const (
	OpHello    Op = "hello"    // answers Pid
	OpSpawn    Op = "spawn"    // answers Spawned
	OpSignal   Op = "signal"   // ID, Signal
	OpReopen   Op = "reopen"   // ID
	OpResize   Op = "resize"   // ID, Cols, Rows
	OpAttach   Op = "attach"   // ID; Stdin, Stdout, Stderr say which descriptors follow, in this order
	OpHold     Op = "hold"     // Name and one descriptor
	OpList     Op = "list"     // Skip; answers List and More
	OpShutdown Op = "shutdown" // answered when nothing is left, then the monitor exits
)

// Request is a packet from the daemon.
type Request struct {
	V      int    `json:"v"`
	Seq    uint64 `json:"seq"`
	Op     Op     `json:"op"`
	ID     string `json:"id,omitempty"`
	Name   string `json:"name,omitempty"`
	Signal int    `json:"signal,omitempty"`
	Cols   uint16 `json:"cols,omitempty"`
	Rows   uint16 `json:"rows,omitempty"`
	Stdin  bool   `json:"stdin,omitempty"`
	Stdout bool   `json:"stdout,omitempty"`
	Stderr bool   `json:"stderr,omitempty"`
	Skip   int    `json:"skip,omitempty"`
	Spawn  *Spawn `json:"spawn,omitempty"`
}

// Reply is a packet from the monitor: the answer to the request with the same Seq, or an event (Seq 0, Exit set).
type Reply struct {
	V       int       `json:"v"`
	Seq     uint64    `json:"seq,omitempty"`
	Err     *Error    `json:"err,omitempty"`
	Pid     int       `json:"pid,omitempty"`
	Spawned *Spawned  `json:"spawned,omitempty"`
	List    []Process `json:"list,omitempty"`
	More    bool      `json:"more,omitempty"`
	Exit    *Exit     `json:"exit,omitempty"`
}

// Spawn says what to start and what to do with its input, output and end.
//
// The child's descriptors are 0, 1, 2 as said below, then those named by Held, then the extra descriptors of the packet, from
// 3 on without gaps. It leads a session of its own.
type Spawn struct {
	// ID is the caller's name for the process, unique among the living.
	ID string `json:"id"`
	// Path is the program; Argv[0] where empty. "/proc/self/exe" is the monitor's own.
	Path string   `json:"path,omitempty"`
	Argv []string `json:"argv"`
	// Env is the whole environment; nothing is inherited.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory; the monitor's directory where empty.
	Dir string `json:"dir,omitempty"`
	// PidFile: when set, Argv is an OCI runtime: it has to exit 0 and leave a process in this file, which is then the process.
	// When empty, Argv is the process.
	PidFile string `json:"pidFile,omitempty"`
	// TTY: the process has a terminal, taken from ConsoleSocket or, without PidFile, made by the monitor.
	TTY bool `json:"tty,omitempty"`
	// ConsoleSocket is a name in the monitor's directory: the monitor listens there before the runtime starts, takes the
	// terminal's master from it, and removes it.
	ConsoleSocket string `json:"consoleSocket,omitempty"`
	// Log is the path of the log in CRI format. Empty: the output is read and thrown away.
	Log string `json:"log,omitempty"`
	// LogMax is the content of one log line in bytes (DefaultLogMax, LimitLogMax).
	LogMax int `json:"logMax,omitempty"`
	// Stdin: keep a pipe to the process's standard input, fed by attachments; else it reads /dev/null.
	Stdin bool `json:"stdin,omitempty"`
	// StdinOnce: close that pipe when the input of the first attachment that has one ends.
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// PassIO: the monitor reads and writes nothing. The packet's first three descriptors are the child's stdio. With TTY
	// there are no such three, and the terminal's master comes back as the reply's only descriptor.
	PassIO bool `json:"passIO,omitempty"`
	// ExitFile: where the Exit is written, as JSON, before the process is reaped. Empty: the event is all there is.
	ExitFile string `json:"exitFile,omitempty"`
	// OOMFile: a file with a line "oom_kill N", read when the process is dead and not yet reaped.
	OOMFile string `json:"oomFile,omitempty"`
	// Held names descriptors given to the monitor before (OpHold).
	Held []string `json:"held,omitempty"`
	// Clone has CLONE_NEW* flags for the child; with CLONE_NEWUSER the maps are written and the child runs as 0:0 inside.
	Clone  uintptr `json:"clone,omitempty"`
	UIDMap []IDMap `json:"uidMap,omitempty"`
	GIDMap []IDMap `json:"gidMap,omitempty"`
	// Timeout in milliseconds for the runtime program itself; its process group is killed then. 0: none.
	Timeout int64 `json:"timeout,omitempty"`
}

// IDMap is one line of a uid_map or gid_map (user_namespaces(7)).
type IDMap struct {
	ContainerID uint32 `json:"containerID"`
	HostID      uint32 `json:"hostID"`
	Size        uint32 `json:"size"`
}

// Spawned answers OpSpawn.
type Spawned struct {
	// Pid of the process in the monitor's PID namespace; 0 on error.
	Pid int `json:"pid,omitempty"`
	// Stderr is the end of what a runtime wrote before it was done, at most MaxStderr bytes. Empty with PassIO.
	Stderr string `json:"stderr,omitempty"`
}

// Process is an entry of the answer to OpList.
type Process struct {
	ID string `json:"id"`
	// Pid is 0 while the runtime program works.
	Pid int `json:"pid,omitempty"`
	// Exit is set when the process is dead: nobody was told yet, or the exit file can't be written, or its output is still
	// held open by others.
	Exit *Exit `json:"exit,omitempty"`
}

// Exit is how a process ended; also the content of Spawn.ExitFile.
type Exit struct {
	ID  string `json:"id"`
	Pid int    `json:"pid"`
	// Code is 0 to 255; 128+n after signal n.
	Code int `json:"code"`
	// Signal is the one that killed it, or 0.
	Signal int `json:"signal,omitempty"`
	// OOMKilled: the kernel killed something in the process's memory cgroup.
	OOMKilled bool `json:"oomKilled,omitempty"`
	// FinishedAt in nanoseconds since 1970.
	FinishedAt int64 `json:"finishedAt"`
}

// Error is a refusal that crossed the wire: its text, and the errno at its root where there is one, so that errors.Is
// finds fs.ErrNotExist and its like on the other side.
type Error struct {
	Text  string        `json:"text"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the errno, or nil.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}
