package hold

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// segment is an error with a path segment before it; the errno stays to be found.
type segment struct {
	text string
	err  error
}

func (s *segment) Error() string { return s.text + ": " + s.err.Error() }
func (s *segment) Unwrap() error { return s.err }

// furnish sets up the namespaces the process is in.
func furnish(c Config) error {
	if c.Net {
		if err := loUp(); err != nil {
			return &segment{"bring lo up", err}
		}
	}
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return &segment{"set hostname " + c.Hostname, err}
		}
	}
	for _, s := range c.Sysctls {
		if err := setSysctl(s); err != nil {
			return &segment{"set sysctl " + s.Path, err}
		}
	}
	return nil
}

// loUp brings the loopback interface up. The kernel gives it 127.0.0.1 and ::1 by itself.
func loUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// setSysctl writes one setting. The path is resolved below a directory that is known to be procfs, without symbolic links.
func setSysctl(s Sysctl) error {
	proc, err := procfs()
	if err != nil {
		return err
	}
	defer unix.Close(proc)
	fd, err := unix.Openat2(proc, "sys/"+s.Path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, []byte(s.Value))
	if err == nil && n != len(s.Value) {
		err = syscall.EIO
	}
	return err
}

// procfs opens /proc, or a procfs of its own where /proc is something else or has /proc/sys mounted over (read-only, in a
// daemon that is itself in a container). Settings below /proc/sys/net and those of IPC and UTS are the ones of the process
// that opens them, whichever procfs it is.
func procfs() (int, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil && writableSys(fd) {
		return fd, nil
	}
	if err == nil {
		unix.Close(fd)
	}
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err = unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

// writableSys says whether sys below an open directory is procfs and not mounted read-only.
func writableSys(proc int) bool {
	fd, err := unix.Openat2(proc, "sys", &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	err = unix.Fstatfs(fd, &st)
	return err == nil && st.Type == unix.PROC_SUPER_MAGIC && st.Flags&unix.ST_RDONLY == 0
}
