package spawn

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// cloneArgs is struct clone_args of clone3(2), as of Linux 5.7 (the size that knows cgroup).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal uint64
	stack, stackSize, tls, setTID, setTIDSize     uint64
	cgroup                                        uint64
}

// raw is everything the child touches, laid out before the fork: after it nothing may be allocated, no lock taken
// and no stack grown, since the other threads of the parent are gone and may have held anything.
type raw struct {
	first   cloneArgs
	second  uintptr // flags of the second clone; 0: the first child becomes the process
	shared  bool    // children run in the parent's memory, which waits for them
	bare    bool    // shared, and what they have to say is left in pid and failed
	pid     int     // of the second child
	failed  record
	tasks   []int
	join    []Join
	user    int // descriptor of the user namespace to join, -1
	newUser bool
	offsets bool // ask for the clocks of the new time namespace
	unshare uintptr
	keep    []int // descriptors that lose close-on-exec
	report  int   // write end: records of failures and of the second child's pid
	maps    int   // read end: one byte when the id maps are written
	root    bool  // become uid and gid 0 of the user namespace
	exe     int
	empty   *byte
	argv    **byte
	envv    **byte
}

// record is what the child says over the report pipe: either a step that did not work, or a pid.
type record struct {
	Step  int32
	Errno int32
	Pid   int32
	Index int32
}

const recordSize = int(unsafe.Sizeof(record{}))

func newRaw(r *Request, argv, envv []*byte) *raw {
	w := &raw{
		second: 0, tasks: r.Tasks, join: r.Join, user: -1, newUser: r.NewUser, unshare: r.unshareFlags(),
		keep: r.Keep, root: r.NewUser, exe: int(r.Exe.Fd()), empty: &[]byte{0}[0], argv: &argv[0], envv: &envv[0],
	}
	w.first.exitSignal = uint64(unix.SIGCHLD)
	w.offsets = r.Offsets != nil
	if r.User != nil {
		w.user, w.root = int(r.User.Fd()), true
	}
	if r.Cgroup != nil {
		w.first.flags |= unix.CLONE_INTO_CGROUP
		w.first.cgroup = uint64(r.Cgroup.Fd())
	}
	switch {
	case r.twice():
		w.second = uintptr(unix.SIGCHLD) | unix.CLONE_PARENT
		if r.New&unix.CLONE_NEWPID != 0 {
			w.second |= unix.CLONE_NEWPID
		}
	case r.New&unix.CLONE_NEWPID != 0:
		w.first.flags |= unix.CLONE_NEWPID
	}
	if r.shared() {
		w.shared = true
		w.first.flags |= unix.CLONE_VM | unix.CLONE_VFORK
		if w.second != 0 {
			w.second |= unix.CLONE_VM | unix.CLONE_VFORK
		}
	}
	return w
}

// vfork is a system call that may return twice on one stack (vfork_GOARCH.s).
func vfork(nr, a, b uintptr) (r uintptr, errno syscall.Errno)

// fork clones the process. In the parent it returns the child's pid; the child never returns.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(w *raw) (pid int, errno syscall.Errno) {
	size := unsafe.Sizeof(w.first)
	if w.first.flags&unix.CLONE_INTO_CGROUP == 0 {
		size = 64 // CLONE_ARGS_SIZE_VER0, Linux 5.3
	}
	beforeFork()
	r, e := vfork(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&w.first)), size)
	if e == 0 && r == 0 {
		afterForkInChild()
		child(w)
	}
	afterFork()
	runtime.KeepAlive(w)
	return int(r), e
}

// child runs in the new process from the fork to the exec.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func child(w *raw) {
	enter(w)
	namespaces(w)
	if w.second != 0 {
		again(w)
	}
	for i := 0; i < len(w.keep); i++ {
		syscall.RawSyscall(unix.SYS_FCNTL, uintptr(w.keep[i]), unix.F_SETFD, 0)
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(w.exe), uintptr(unsafe.Pointer(w.empty)),
		uintptr(unsafe.Pointer(w.argv)), uintptr(unsafe.Pointer(w.envv)), unix.AT_EMPTY_PATH, 0)
	fail(w, stepExec, 0, e)
}

// enter moves the only thread into the v1 cgroups. "0" into tasks is the one form of attach that does not wait for an
// RCU grace period (cgroup_attach_lock is skipped when a thread moves itself).
//
//go:norace
//go:nosplit
//go:nocheckptr
func enter(w *raw) {
	zero := byte('0')
	for i := 0; i < len(w.tasks); i++ {
		if _, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(w.tasks[i]), uintptr(unsafe.Pointer(&zero)), 1); e != 0 {
			fail(w, stepCgroup, i, e)
		}
	}
}

// namespaces joins and makes namespaces. Those owned by the host's user namespace have to be joined before the
// container's user namespace, those owned by it after: so the ones that are refused with EPERM are tried again.
//
//go:norace
//go:nosplit
//go:nocheckptr
func namespaces(w *raw) {
	again := uint64(0)
	for i := 0; i < len(w.join); i++ {
		_, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(w.join[i].FD), w.join[i].Kind, 0)
		if e == unix.EPERM && w.user >= 0 {
			again |= 1 << uint(i)
		} else if e != 0 {
			fail(w, stepJoin, i, e)
		}
	}
	if w.user >= 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(w.user), unix.CLONE_NEWUSER, 0); e != 0 {
			fail(w, stepJoinUser, 0, e)
		}
	}
	for i := 0; i < len(w.join); i++ {
		if again&(1<<uint(i)) == 0 {
			continue
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(w.join[i].FD), w.join[i].Kind, 0); e != 0 {
			fail(w, stepJoin, i, e)
		}
	}
	if w.newUser {
		waitMaps(w)
	}
	if w.root {
		becomeRoot(w)
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, w.unshare, 0, 0); e != 0 {
		fail(w, stepUnshare, 0, e)
	}
	if w.offsets {
		ask(w, stepOffsets)
	}
}

// waitMaps makes the user namespace and waits until the parent has written its id maps.
//
//go:norace
//go:nosplit
//go:nocheckptr
func waitMaps(w *raw) {
	if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0); e != 0 {
		fail(w, stepNewUser, 0, e)
	}
	ask(w, stepMaps)
}

// ask has the parent do something and waits for its word.
//
//go:norace
//go:nosplit
//go:nocheckptr
func ask(w *raw, step int) {
	r := record{Step: int32(step)}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(w.report), uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	b := byte(0)
	n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(w.maps), uintptr(unsafe.Pointer(&b)), 1)
	if n != 1 {
		fail(w, step, 0, e)
	}
}

// becomeRoot takes uid and gid 0 of the user namespace just entered, so that what it creates has an owner there.
// Supplementary groups of the host are dropped where that is allowed.
//
//go:norace
//go:nosplit
//go:nocheckptr
func becomeRoot(w *raw) {
	syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); e != 0 {
		fail(w, stepRoot, 0, e)
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); e != 0 {
		fail(w, stepRoot, 1, e)
	}
}

// again clones the process that shall live in the PID namespace chosen so far: a sibling of this one, which only
// tells its pid and is gone. In shared memory it does so when the sibling has executed its program, or ended.
//
//go:norace
//go:nosplit
//go:nocheckptr
func again(w *raw) {
	pid, e := vfork(unix.SYS_CLONE, w.second, 0)
	if e != 0 {
		fail(w, stepClone, 0, e)
	}
	if pid == 0 {
		return
	}
	if w.bare {
		w.pid = int(pid)
	} else {
		r := record{Step: stepPid, Pid: int32(pid)}
		syscall.RawSyscall(unix.SYS_WRITE, uintptr(w.report), uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

//go:norace
//go:nosplit
//go:nocheckptr
func fail(w *raw, step, index int, e syscall.Errno) {
	r := record{Step: int32(step), Errno: int32(e), Index: int32(index)}
	if w.bare {
		w.failed = r
	} else {
		syscall.RawSyscall(unix.SYS_WRITE, uintptr(w.report), uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

func (r *record) bytes() []byte { return (*[recordSize]byte)(unsafe.Pointer(r))[:] }
