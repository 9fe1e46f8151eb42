package spawn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bare is a Request of a process that has no Go runtime yet (package quick): nothing is allocated, one thread, no user or time
// namespace, children in its memory.
type Bare struct {
	Exe    int
	Argv   **byte // ends with a nil, as does Envv
	Envv   **byte
	Keep   []int
	Tasks  []int
	Cgroup int // -1: none
	Join   []Join
	Fork   bool
}

// Start clones and returns the pid when the program has been executed; false when it could not be, and nothing is left.
//
//go:norace
//go:nocheckptr
func (b *Bare) Start() (pid int, ok bool) {
	empty := byte(0)
	w := raw{shared: true, bare: true, tasks: b.Tasks, join: b.Join, user: -1, keep: b.Keep, report: -1, maps: -1, exe: b.Exe,
		empty: &empty, argv: b.Argv, envv: b.Envv}
	w.first.exitSignal = uint64(unix.SIGCHLD)
	w.first.flags = unix.CLONE_VM | unix.CLONE_VFORK
	if b.Cgroup >= 0 {
		w.first.flags |= unix.CLONE_INTO_CGROUP
		w.first.cgroup = uint64(b.Cgroup)
	}
	if b.Fork {
		w.second = uintptr(unix.SIGCHLD) | unix.CLONE_PARENT | unix.CLONE_VM | unix.CLONE_VFORK
	}
	first, e := bare(&w)
	if e != 0 {
		return 0, false
	}
	if b.Fork {
		reap(first)
		first = w.pid
	}
	if w.failed.Step != 0 && first > 0 {
		reap(first)
	}
	return first, w.failed.Step == 0 && first > 0
}

// bare is fork without the Go runtime's part in it.
//
//go:noinline
//go:norace
//go:nocheckptr
func bare(w *raw) (pid int, errno syscall.Errno) {
	size := unsafe.Sizeof(w.first)
	if w.first.flags&unix.CLONE_INTO_CGROUP == 0 {
		size = 64 // CLONE_ARGS_SIZE_VER0, Linux 5.3
	}
	r, e := vfork(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&w.first)), size)
	if e == 0 && r == 0 {
		child(w)
	}
	return int(r), e
}

func reap(pid int) {
	for {
		if _, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, uintptr(pid), 0, 0, 0, 0, 0); e != unix.EINTR {
			return
		}
	}
}
