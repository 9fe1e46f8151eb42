package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// listen opens the CRI socket, mode 0660. A socket nobody listens on is a leftover and replaced; anything else at
// that place is refused.
func listen(address string) (net.Listener, error) {
	path, err := socketPath(address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	if err := clearSocket(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w: make the directory or choose another path with --listen", path, err)
	}
	defer dir.Close()
	// Bound through the directory's descriptor: a socket's own path has at most 107 bytes (unix(7)).
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	mask := unix.Umask(0o117)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	unix.Umask(mask)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	ln.SetUnlinkOnClose(false) // by that name it could not be found again
	return unlinking{ln, path}, nil
}

// unlinking removes its socket when closed.
type unlinking struct {
	*net.UnixListener
	path string
}

func (u unlinking) Close() error {
	err := u.UnixListener.Close()
	if rm := os.Remove(u.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) && err == nil {
		err = rm
	}
	return err
}

// clearSocket makes room at path.
func clearSocket(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file that is no socket: remove it, or choose another path with --listen")
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err == nil {
		conn.Close()
		return errors.New("another daemon serves there: stop it, or choose another path with --listen")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
