package inside

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func execve(name string, argv, envv []*byte) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])))
	return e
}

func pointers(s []string) ([]*byte, error) {
	out := make([]*byte, len(s)+1)
	for i := range s {
		p, err := unix.BytePtrFromString(s[i])
		if err != nil {
			return nil, fmt.Errorf("argument or environment %d: %w", i, err)
		}
		out[i] = p
	}
	return out, nil
}

// prlimit is the raw call: the library's remembers RLIMIT_NOFILE and would put its own value back.
func prlimit(resource int, set, old *unix.Rlimit) error {
	_, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(resource), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 0, 0)
	return errno(e)
}

func setgroups(gids []uint32) error {
	p := unsafe.Pointer(nil)
	if len(gids) > 0 {
		p = unsafe.Pointer(&gids[0])
	}
	_, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(gids)), uintptr(p), 0)
	return errno(e)
}

func ioprioSet(value uint64) error {
	const whoProcess = 1
	_, _, e := syscall.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(value))
	return errno(e)
}

func setMemPolicy(mode uint64, mask []uint64) error {
	p := unsafe.Pointer(nil)
	if len(mask) > 0 {
		p = unsafe.Pointer(&mask[0])
	}
	_, _, e := syscall.RawSyscall(unix.SYS_SET_MEMPOLICY, uintptr(mode), uintptr(p), uintptr(len(mask)*64+1))
	return errno(e)
}
