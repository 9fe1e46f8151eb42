package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// trySeccomp asks whether filters may return what profiles use (seccomp(2), SECCOMP_GET_ACTION_AVAIL).
func trySeccomp() (string, error) {
	found := ""
	for _, a := range []struct {
		name   string
		action uint32
		needed bool
	}{
		{"errno", unix.SECCOMP_RET_ERRNO, true},
		{"kill", unix.SECCOMP_RET_KILL_PROCESS, true},
		{"log", unix.SECCOMP_RET_LOG, false},
		{"notify", unix.SECCOMP_RET_USER_NOTIF, false},
	} {
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&a.action)))
		if errno != 0 && a.needed {
			return "", fmt.Errorf("action %s: %w", a.name, errno)
		}
		if errno == 0 {
			found += " " + a.name
		}
	}
	return found[1:], nil
}

// tryPidfdInfo asks for the exit status of a process (ioctl PIDFD_GET_INFO, Linux 6.13; exit codes since 6.15).
func tryPidfdInfo() (string, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	const (
		getInfo  = 0xc040ff0b // _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info), linux/pidfd.h
		maskPid  = 1 << 0
		infoSize = 64
	)
	info := [infoSize / 8]uint64{maskPid}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getInfo, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return "", errno
	}
	if info[0]&maskPid == 0 {
		return "", errors.New("no answer")
	}
	return "", nil
}
