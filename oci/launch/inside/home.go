package inside

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// home sets HOME from the container's /etc/passwd when the environment lacks it.
func (t tree) home(p *program.Process) error {
	for _, e := range p.Env {
		if strings.HasPrefix(e, "HOME=") {
			return nil
		}
	}
	dir, err := t.homeOf(p.UID)
	if err != nil {
		return fmt.Errorf("home of user %d: %w", p.UID, err)
	}
	p.Env = append(p.Env, "HOME="+dir)
	return nil
}

// homeOf reads the container's /etc/passwd, which may be anything: only a regular file counts, and not more than 1 MiB.
func (t tree) homeOf(uid uint32) (string, error) {
	fd, err := t.open("/etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "/", nil
	}
	f := os.NewFile(uintptr(fd), "passwd")
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "/", nil
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "/", nil
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
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
