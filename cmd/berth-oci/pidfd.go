package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sendPidfd hands a pidfd of a process to whoever listens at a socket (--pidfd-socket); "" does nothing. name is the
// payload: "standard" for a container's process, "setns" for an exec's.
func sendPidfd(socket string, pid int, name string) error {
	if socket == "" {
		return nil
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd socket: %w", os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(pidfd)
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return fmt.Errorf("pidfd socket: %w", err)
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("pidfd socket: %w", err)
	}
	defer unix.Close(fd)
	// by descriptor: the path may be longer than a socket address (unix(7))
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket))}); err != nil {
		return fmt.Errorf("pidfd socket %s: %w", socket, err)
	}
	if err := unix.Sendmsg(fd, []byte(name), unix.UnixRights(pidfd), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("pidfd socket %s: %w", socket, err)
	}
	return nil
}
