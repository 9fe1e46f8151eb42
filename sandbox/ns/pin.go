package ns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pins are the paths of pinned namespaces; "" for those that were not asked for.
type Pins struct {
	Net, IPC, UTS, PID, User string
}

// Pin keeps namespaces of process pid by bind mounts: each kind at dir/KIND, the network at netPath. It is idempotent: what is
// pinned already stays, and a pin of another namespace, left from an earlier try, is replaced. It records nothing; on error,
// Unpin takes back what was done. dir is made if need be.
func Pin(pid int, kinds []Kind, dir, netPath string) (Pins, error) {
	var p Pins
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, fmt.Errorf("pin namespaces of pid %d: %w", pid, err)
	}
	for _, k := range kinds {
		path := filepath.Join(dir, string(k))
		switch k {
		case Net:
			path = netPath
			p.Net = path
		case IPC:
			p.IPC = path
		case UTS:
			p.UTS = path
		case PID:
			p.PID = path
		case User:
			p.User = path
		default:
			return p, fmt.Errorf("pin %q: %w", k, fs.ErrInvalid)
		}
		if err := pin(pid, k, path); err != nil {
			return p, fmt.Errorf("pin %s namespace of pid %d at %s: %w", k, pid, path, err)
		}
	}
	return p, nil
}

// pin mounts one namespace. The target is reached by descriptor, so that nothing put in its place meanwhile is mounted upon.
func pin(pid int, k Kind, path string) error {
	if k == Net {
		if err := netDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	source := "/proc/" + strconv.Itoa(pid) + "/ns/" + string(k)
	var want, have unix.Stat_t
	if err := unix.Stat(source, &want); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err == nil {
		unix.Close(fd)
	} else if err != unix.EEXIST {
		return err
	}
	fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	if err = unix.Fstat(fd, &have); err != nil {
		return err
	}
	if have.Dev == want.Dev && have.Ino == want.Ino {
		return nil
	}
	if isNS(fd) {
		unix.Close(fd)
		if err = unmount(path); err != nil {
			return err
		}
		if fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.Fstat(fd, &have); err != nil {
			return err
		}
	}
	if have.Mode&unix.S_IFMT != unix.S_IFREG {
		return fs.ErrExist
	}
	return unix.Mount(source, "/proc/self/fd/"+strconv.Itoa(fd), "", unix.MS_BIND, "")
}

// isNS says whether an open file is a namespace.
func isNS(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// netDir makes the directory of network pins. A fresh /run/netns is made what ip-netns(8) makes of it, a shared mount of its
// own: done later by "ip netns", on top of pins, it would copy and cover them, and a covered pin can't be let go. Nothing is
// done to the mount it lies on, nor to other directories, nor when there are pins in it.
func netDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if dir != "/run/netns" && dir != "/var/run/netns" || isMount(dir) {
		return nil
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return err
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", dir, "", unix.MS_SHARED, "")
}

// isMount says whether a directory is the root of a mount. Statx tells since Linux 5.8.
func isMount(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// Unpin takes the pins of dir and the one at netPath ("" for none) away, and dir itself when it is empty then. It is
// idempotent.
func Unpin(dir, netPath string) error {
	var errs []error
	for _, k := range []Kind{PID, UTS, IPC, User} {
		errs = append(errs, unpin(filepath.Join(dir, string(k))))
	}
	if netPath != "" {
		errs = append(errs, unpin(netPath))
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func unpin(path string) error {
	if err := unmount(path); err != nil {
		return fmt.Errorf("unpin %s: %w", path, err)
	}
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT && !missing(path) {
		return fmt.Errorf("unpin %s: %w", path, err)
	}
	return nil
}

// missing tells that nothing is at path. On a read-only file system that is not what unlink(2) says of it.
func missing(path string) bool {
	return unix.Access(path, unix.F_OK) == unix.ENOENT
}

// unmount removes all that is mounted on path.
func unmount(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT: // not a mount point; not there
			return nil
		default:
			return err
		}
	}
}
