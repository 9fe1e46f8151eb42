package inside

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// maxPasswd bounds what is read of a container's /etc/passwd, which may be any size.
const maxPasswd = 1 << 20

// lacksHome reports whether the environment has no HOME.
func lacksHome(p *program.Process) bool {
	for _, e := range p.Env {
		if strings.HasPrefix(e, "HOME=") {
			return false
		}
	}
	return true
}

// home sets HOME from the container's /etc/passwd when the environment lacks it.
func home(b *box, p *program.Process) error {
	if !lacksHome(p) {
		return nil
	}
	dir := "/"
	if text, err := regular(b, "/etc/passwd", maxPasswd); err == nil {
		if dir, err = homeIn(text, p.UID); err != nil {
			return fmt.Errorf("home of user %d: %w", p.UID, err)
		}
	}
	p.Env = append(p.Env, "HOME="+dir)
	return nil
}

// regular reads a file of the container, which may be anything. It is opened for reading only when it is known to be a
// regular file, for some devices act on being opened (a watchdog starts), and no device rules may be in force yet. The
// second opening goes through a procfs of our own, so that it is the very file that was looked at.
func regular(b *box, name string, limit int64) ([]byte, error) {
	fd, err := b.root.open(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	// the kernel's own file systems have regular files that do not end, such as /proc/kmsg
	if kind := magic(fd); st.Mode&unix.S_IFMT != unix.S_IFREG || ofKernel(kind) || kind == unix.CGROUP_SUPER_MAGIC ||
		kind == unix.CGROUP2_SUPER_MAGIC || kind == unix.TRACEFS_MAGIC || kind == unix.DEBUGFS_MAGIC {
		return nil, fs.ErrInvalid
	}
	proc, err := b.procfs()
	if err != nil {
		return nil, err
	}
	in, err := unix.Openat(proc, "thread-self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(in), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// homeIn finds the home directory of a user in the text of a passwd(5). Only plain decimal numbers are user ids: what is
// too large, negative or a name is nobody's, and a line that is none is passed over.
func homeIn(text []byte, uid uint32) (string, error) {
	for line := range bytes.Lines(text) {
		f := strings.Split(strings.TrimRight(string(line), "\n"), ":")
		if len(f) < 6 || f[5] == "" {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && uint32(n) == uid {
			if strings.ContainsRune(f[5], 0) {
				return "", errors.New("NUL in /etc/passwd")
			}
			return f[5], nil
		}
	}
	return "/", nil
}
