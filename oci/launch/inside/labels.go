package inside

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// labels are open files of /proc/thread-self/attr: AppArmor's, SELinux's; -1 where none is asked for.
type labels [2]int

// open opens the label files while nothing can be mounted over them.
func (l *labels) open(s *program.Security, procfs func() (int, error)) error {
	for i, want := range [...]struct{ value, name string }{{s.AppArmor, "apparmor/exec"}, {s.SELinux, "exec"}} {
		if want.value == "" {
			continue
		}
		proc, err := procfs()
		if err != nil {
			return fmt.Errorf("label %s: %w", want.value, err)
		}
		fd, err := unix.Openat(proc, "thread-self/attr/"+want.name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT && i == 0 {
			fd, err = unix.Openat(proc, "thread-self/attr/exec", unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		}
		if err != nil {
			return fmt.Errorf("label %s: %w", want.value, err)
		}
		l[i] = fd
	}
	return nil
}

func (l *labels) write(s *program.Security) error {
	for i, text := range [...]string{"exec " + s.AppArmor, s.SELinux} {
		if l[i] < 0 {
			continue
		}
		if _, err := unix.Write(l[i], []byte(text)); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return nil
}
