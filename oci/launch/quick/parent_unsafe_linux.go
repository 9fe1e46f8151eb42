//go:build amd64

package quick

import (
	"unsafe"

	"github.com/berth-runtime/berth/oci/launch/become"
)

// self opens this very program on a mount that is read-only and attached nowhere, as package launch does (exe.go): the one it has
// been executed from, or a new one.
func self() int {
	var n name
	if !n.add("/proc/self/exe") {
		return -1
	}
	var link [2]byte
	got := int(syscall6(sysReadlinkat, ^uintptr(99), n.ptr(), uintptr(unsafe.Pointer(&link)), uintptr(len(link)), 0, 0))
	if got == 1 && link[0] == '/' {
		fd := n.open(atCwd, oPath)
		if fd >= 0 && become.ReadOnly(fd) {
			return fd
		}
		call(sysClose, uintptr(fd), 0, 0)
	}
	const clone = 1 | oCloexec // OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC
	fd := int(syscall6(sysOpenTree, ^uintptr(99), n.ptr(), clone, 0, 0, 0))
	if fd < 0 {
		return -1
	}
	attr := [4]uint64{0: mountReadonly, 1: mountNoexec} // struct mount_attr: to set, to clear, propagation, user namespace
	n.cut(0)
	if int(syscall6(sysMountSetattr, uintptr(fd), n.ptr(), atEmptyPath, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)) != 0 {
		call(sysClose, uintptr(fd), 0, 0)
		return -1
	}
	return fd
}

// score sets this process's oom_score_adj, which the init inherits.
func score(v int) bool {
	var n, text name
	n.add("/proc/self/oom_score_adj")
	if v < 0 {
		text.add("-")
		v = -v
	}
	text.number(v)
	fd := n.open(atCwd, oWronly)
	if fd < 0 {
		return false
	}
	ok := call(sysWrite, uintptr(fd), text.ptr(), uintptr(text.size)) == text.size
	call(sysClose, uintptr(fd), 0, 0)
	return ok
}

// temporary is the name of the file that becomes the pid file: as package launch has it, in the same directory.
func (x *execution) temporary(n *name) bool {
	s := x.a.pidFile
	i := len(s)
	for i > 0 && s[i-1] != '/' {
		i--
	}
	return i < len(s) && n.add(s[:i]) && n.add(".") && n.add(s[i:])
}

func (x *execution) openPidFile() bool {
	var n name
	if !x.temporary(&n) {
		return false
	}
	x.pidTemp = int(syscall6(sysOpenat, ^uintptr(99), n.ptr(), oWronly|oCreate|oTruncate|oCloexec, 0o644, 0, 0))
	return x.pidTemp >= 0
}

func (x *execution) writePidFile(pid int) bool {
	var from, to, text name
	x.temporary(&from)
	return text.number(pid) && call(sysWrite, uintptr(x.pidTemp), text.ptr(), uintptr(text.size)) == text.size &&
		to.add(x.a.pidFile) && call(sysRename, from.ptr(), to.ptr(), 0) == 0
}

// dropPidFile removes what openPidFile has made.
func (x *execution) dropPidFile() {
	var n name
	if x.pidTemp >= 0 && x.temporary(&n) {
		call(sysUnlink, n.ptr(), 0, 0)
	}
}

// Signals that ask for an end are passed on to a process that is waited for; cmd/berth-oci has the same. Their set, with SIGCHLD.
const (
	passed  = 1<<0 | 1<<1 | 1<<2 | 1<<9 | 1<<11 | 1<<14 | 1<<27 // HUP INT QUIT USR1 USR2 TERM WINCH: bit n is signal n+1
	sigchld = 17
	blocked = passed | 1<<(sigchld-1)
)

// action is struct sigaction of the kernel; zeros are the default.
type action struct{ handler, flags, restorer, mask uint64 }

func defaultAction(signal int) {
	var a action
	syscall6(sysRtSigaction, uintptr(signal), uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0)
}

// block has the signals wait and returns which waited before. A child is to be waited for whoever has ignored SIGCHLD.
func block(detach bool) (old uint64) {
	defaultAction(sigchld)
	set := uint64(blocked)
	if detach {
		set = 0
	}
	const sigBlock = 0
	syscall6(sysRtSigprocmask, sigBlock, uintptr(unsafe.Pointer(&set)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	return old
}

func unblock(old uint64) {
	const sigSetmask = 2
	syscall6(sysRtSigprocmask, sigSetmask, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
}

// attend waits for a child, passing signals on meanwhile, and ends with its exit code as shells do.
func attend(pid int) {
	set := uint64(blocked)
	for {
		status := int32(0)
		got := int(syscall6(sysWait4, uintptr(pid), uintptr(unsafe.Pointer(&status)), wnohang, 0, 0, 0))
		if got == pid {
			if sig := status & 0x7f; sig != 0 {
				leave(128 + uintptr(sig))
			}
			leave(uintptr(status>>8) & 0xff)
		}
		if got < 0 && got != -eintr {
			leave(255)
		}
		s := int(syscall6(sysRtSigtimedwait, uintptr(unsafe.Pointer(&set)), 0, 0, 8, 0, 0))
		if s > 0 && s != sigchld {
			call(sysKill, uintptr(pid), uintptr(s), 0)
		}
	}
}

func reap(pid int) {
	for int(syscall6(sysWait4, uintptr(pid), 0, 0, 0, 0, 0)) == -eintr {
	}
}

func leave(code uintptr) {
	for {
		syscall6(sysExitGroup, code, 0, 0, 0, 0, 0)
	}
}
