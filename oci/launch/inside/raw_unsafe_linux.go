package inside

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
