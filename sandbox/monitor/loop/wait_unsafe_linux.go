package loop

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfo is the SIGCHLD form of siginfo_t on 64-bit machines, as waitid(2) fills it; x/sys leaves these fields unnamed.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// peek tells of a dead child without reaping it: the one with this pid, or any for pid 0. ok is false when none is dead;
// ECHILD when there is no such child.
func peek(pid int) (info siginfo, ok bool, err error) {
	idType := unix.P_PID
	if pid == 0 {
		idType = unix.P_ALL
	}
	for {
		_, _, e := syscall.Syscall6(syscall.SYS_WAITID, uintptr(idType), uintptr(pid), uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
		switch e {
		case 0:
			return info, info.pid != 0, nil
		case syscall.EINTR:
		default:
			return info, false, e
		}
	}
}
