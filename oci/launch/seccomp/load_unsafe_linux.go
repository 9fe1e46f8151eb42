package seccomp

import (
	"fmt"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Load puts the calling thread under the filter, for good and for all it will
// execute and start; the caller has locked the thread, and has no_new_privs or
// CAP_SYS_ADMIN in its user namespace (seccomp(2)). With p.Notify it returns
// the listener, close-on-exec and the caller's to close, else -1.
func Load(p Program) (notifyFd int, err error) {
	if len(p.Filter) == 0 || len(p.Filter) > maxLen {
		return -1, fmt.Errorf("load seccomp filter: %d instructions: %w", len(p.Filter), fs.ErrInvalid)
	}
	prog := unix.SockFprog{Len: uint16(len(p.Filter)), Filter: &p.Filter[0]}
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(p.Flags), uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return -1, fmt.Errorf("load seccomp filter: %w", e)
	}
	if !p.Notify {
		return -1, nil
	}
	return int(fd), nil
}

// supported asks the kernel about flags: with no program behind the pointer it answers EFAULT when it knows them and
// EINVAL when it does not (seccomp(2)).
func supported(flags uint) bool {
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), 0)
	return e == unix.EFAULT
}
