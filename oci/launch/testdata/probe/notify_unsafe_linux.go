package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification and answer are struct seccomp_notif and seccomp_notif_resp (linux/seccomp.h).
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

const (
	notifRecv = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifSend = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
)

// agent answers every call of a seccomp filter that notifies on descriptor 3 with an errno, until the filter has no
// process any more, and tells how many there were.
func agent(errno int) {
	for calls := 0; ; {
		var n notification
		_, _, e := unix.Syscall(unix.SYS_IOCTL, 3, notifRecv, uintptr(unsafe.Pointer(&n)))
		if e == unix.EINTR {
			continue
		}
		if e != 0 { // ENOENT: nobody is left
			fmt.Println(calls, "calls")
			return
		}
		calls++
		r := answer{id: n.id, errno: -int32(errno)}
		unix.Syscall(unix.SYS_IOCTL, 3, notifSend, uintptr(unsafe.Pointer(&r)))
	}
}
