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
	calls := 0
	for alive(3) {
		var n notification
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, 3, notifRecv, uintptr(unsafe.Pointer(&n))); e != 0 {
			continue // a signal came between, to us or to who calls (ENOENT); that call comes again
		}
		r := answer{id: n.id, errno: -int32(errno)}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, 3, notifSend, uintptr(unsafe.Pointer(&r))); e == 0 {
			calls++
		}
	}
	fmt.Println(calls, "calls")
}

// alive waits for a call; false: no process has the filter any more (EPOLLHUP, Linux 5.9).
func alive(fd int32) bool {
	for {
		p := []unix.PollFd{{Fd: fd, Events: unix.POLLIN}}
		switch _, err := unix.Poll(p, -1); {
		case err == unix.EINTR:
		case err != nil, p[0].Revents&unix.POLLIN == 0:
			return false
		default:
			return true
		}
	}
}
