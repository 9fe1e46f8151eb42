package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// witness is a directory of the host that nothing of a container may change, and a look at what else must stay as it is.
type witness struct {
	t      *testing.T
	dir    string
	before string
}

const secret = "the host's secret"

func newWitness(t *testing.T) *witness {
	t.Helper()
	needRoot(t)
	w := &witness{t: t, dir: t.TempDir()}
	for _, name := range []string{"etc", "etc/passwd.d", "a", "dir"} {
		os.MkdirAll(w.dir+"/"+name, 0o755)
	}
	os.WriteFile(w.dir+"/file", []byte("host"), 0o600)
	os.WriteFile(w.dir+"/secret", []byte(secret), 0o644)
	w.before = w.look()
	return w
}

// look is names, types, modes, owners, sizes and content of the tree, the host's parameters, and well-known files.
func (w *witness) look() string {
	var s strings.Builder
	filepath.WalkDir(w.dir, func(p string, _ os.DirEntry, _ error) error {
		fmt.Fprintf(&s, "%s %s", strings.TrimPrefix(p, w.dir), lstat(p))
		var st unix.Stat_t
		if unix.Lstat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			b, _ := os.ReadFile(p)
			fmt.Fprintf(&s, " %q", b)
		}
		s.WriteByte('\n')
		return nil
	})
	for _, name := range []string{"kernel/core_pattern", "kernel/hostname", "kernel/domainname", "kernel/modprobe", "kernel/shmmax",
		"kernel/sysrq", "net/ipv4/ip_forward", "net/ipv4/conf/lo/forwarding", "vm/overcommit_memory", "vm/laptop_mode", "fs/mqueue/msg_max"} {
		b, _ := os.ReadFile("/proc/sys/" + name)
		fmt.Fprintf(&s, "sysctl %s %s", name, b)
	}
	for _, name := range []string{"/", "/etc", "/etc/passwd", "/etc/shadow", "/dev", "/dev/zero", "/dev/console", "/dev/ptmx", "/proc",
		"/sys", "/tmp", "/sys/fs/cgroup", "/bin/sh"} {
		fmt.Fprintf(&s, "%s %s\n", name, lstat(name))
	}
	var st unix.Stat_t // its owner is whose containers had it as standard input last, with some runtimes
	unix.Lstat("/dev/null", &st)
	fmt.Fprintf(&s, "/dev/null %o %d:%d\n", st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), w.dir) {
		s.WriteString("a mount on the witness\n")
	}
	return s.String()
}

func (w *witness) check() {
	w.t.Helper()
	if after := w.look(); after != w.before {
		w.t.Errorf("the host changed:\n%s\nbefore:\n%s", after, w.before)
	}
}
