package launch

import (
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/plan"
)

// opened are the descriptors behind the sources of a plan, by slot.
type opened struct {
	fds     []int
	maps    *idmaps
	layers  []int // id-mapped clones of overlay layers
	listen  *os.File
	console *os.File
}

// open opens every source in the host's view, with the host's privileges.
func (o *opened) open(sources []plan.Source) error {
	for i := range sources {
		fd, err := o.one(&sources[i])
		if err != nil {
			return fmt.Errorf("%s: %w", sources[i].Field, err)
		}
		o.fds = append(o.fds, fd)
	}
	return nil
}

// close gives back what open opened; listen and console are the caller's.
func (o *opened) close() {
	for _, fd := range o.fds {
		unix.Close(fd)
	}
	for _, fd := range o.layers {
		unix.Close(fd)
	}
	o.maps.close()
}

func (o *opened) one(s *plan.Source) (int, error) {
	switch s.Kind {
	case plan.Listen:
		return dup(o.listen)
	case plan.Console:
		return dup(o.console)
	case plan.Notify:
		return dialNotify(s.Path)
	case plan.Overlay:
		return o.overlay(s)
	case plan.Null:
		return device(s.Path, unix.S_IFCHR, unix.Mkdev(1, 3))
	case plan.Node:
		return device(s.Path, s.Mode, s.Rdev)
	case plan.Namespace:
		return unix.Open(s.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	return o.bind(s)
}

func dup(f *os.File) (int, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	return fd, err
}

func dialNotify(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return fd, nil
}

// bind clones the tree at a path and gives it its attributes, all before anything of the container exists. Symbolic
// links in the path are resolved here, once.
func (o *opened) bind(s *plan.Source) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if s.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := openTree(s.Path, flags)
	if err != nil {
		return -1, err
	}
	if err := o.attributes(fd, s); err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "bind", Path: s.Path, Err: err}
	}
	return fd, nil
}

// openTree clones a tree. "/proc/self/fd/N" names a descriptor this process inherited, a detached mount perhaps: that
// one is cloned by descriptor, which for detached ones works since Linux 6.15. Before, the descriptor itself is used.
func openTree(path string, flags uint) (int, error) {
	if n, ok := strings.CutPrefix(path, "/proc/self/fd/"); ok && !strings.ContainsRune(n, '/') {
		var num int
		if _, err := fmt.Sscanf(n, "%d", &num); err != nil {
			return -1, &os.PathError{Op: "bind", Path: path, Err: fs.ErrInvalid}
		}
		fd, err := unix.OpenTree(num, "", flags|unix.AT_EMPTY_PATH)
		if err == unix.EINVAL {
			fd, err = unix.FcntlInt(uintptr(num), unix.F_DUPFD_CLOEXEC, 3)
		}
		if err != nil {
			return -1, &os.PathError{Op: "bind", Path: path, Err: err}
		}
		return fd, nil
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return -1, &os.PathError{Op: "bind", Path: path, Err: err}
	}
	return fd, nil
}

func (o *opened) attributes(fd int, s *plan.Source) error {
	if p := s.Propagation; p != 0 {
		if err := setattr(fd, p&unix.MS_REC != 0, &unix.MountAttr{Propagation: p &^ unix.MS_REC}); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	if s.RecSet|s.RecClear != 0 {
		if err := setattr(fd, true, attr(s.RecSet, s.RecClear)); err != nil {
			return fmt.Errorf("recursive attributes: %w", err)
		}
	}
	if s.Set|s.Clear != 0 {
		if err := setattr(fd, false, attr(s.Set, s.Clear)); err != nil {
			return fmt.Errorf("attributes: %w", err)
		}
	}
	if len(s.UIDs) > 0 {
		return o.idmap(fd, s)
	}
	return nil
}

func (o *opened) idmap(fd int, s *plan.Source) error {
	ns, err := o.maps.get(s.UIDs, s.GIDs)
	if err != nil {
		return err
	}
	a := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}
	if err := setattr(fd, s.RecMap, &a); err != nil {
		return fmt.Errorf("id-mapped mount: %w", err)
	}
	return nil
}

// attr completes the atime field: a choice, of which the old value has to be cleared as a whole.
func attr(set, clear uint64) *unix.MountAttr {
	return &unix.MountAttr{Attr_set: set, Attr_clr: clear}
}

func setattr(fd int, recursive bool, a *unix.MountAttr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, a)
}

// device clones the host's device at a path, having looked that it is the one meant.
func device(path string, kind, rdev uint64) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "bind", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || uint64(st.Mode&unix.S_IFMT) != kind || st.Rdev != rdev {
		unix.Close(fd)
		return -1, fmt.Errorf("%s is not the device %d:%d: %w", path, unix.Major(rdev), unix.Minor(rdev), fs.ErrInvalid)
	}
	if err := setattr(fd, false, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "bind", Path: path, Err: err}
	}
	return fd, nil
}

// idmaps makes user namespaces for id-mapped mounts, one per pair of mappings.
type idmaps struct {
	exe  *os.File
	made map[string]*os.File
}

func (m *idmaps) get(uids, gids []specs.LinuxIDMapping) (int, error) {
	key := mapText(uids) + "/" + mapText(gids)
	if f := m.made[key]; f != nil {
		return int(f.Fd()), nil
	}
	f, err := userNamespace(m.exe, uids, gids)
	if err != nil {
		return -1, err
	}
	if m.made == nil {
		m.made = map[string]*os.File{}
	}
	m.made[key] = f
	return int(f.Fd()), nil
}

func (m *idmaps) close() {
	if m == nil {
		return
	}
	for _, f := range m.made {
		f.Close()
	}
}
