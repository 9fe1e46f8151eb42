package launch

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openConsole returns the socket that gets the pty's master: one that is connected already, of a caller who shows the
// terminal itself, or the one at path; nil when there is none. The result is the caller's to close.
func openConsole(path string, connected *os.File, terminal bool) (*os.File, error) {
	if path != "" || connected == nil || !terminal {
		return dialConsole(path)
	}
	fd, err := dup(connected)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), "console"), nil
}

// dialConsole connects to the socket that gets the pty's master; "" gives nil.
func dialConsole(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("console socket: %w", err)
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: short}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("console socket %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
