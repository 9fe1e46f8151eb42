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

// overlay makes the root file system, attached nowhere.
func (o *opened) overlay(s *plan.Source) (int, error) {
	ctx, err := unix.Fsopen(s.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", s.Type, err)
	}
	defer unix.Close(ctx)
	if s.Path != "" {
		if err := unix.FsconfigSetString(ctx, "source", s.Path); err != nil {
			return -1, fmt.Errorf("overlay source: %w", err)
		}
	}
	for _, opt := range s.Options {
		if err := o.layer(ctx, opt, s); err != nil {
			return -1, fmt.Errorf("overlay option %q: %w%s", opt, err, said(ctx))
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("overlay: %w%s", err, said(ctx))
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, int(s.Set))
	if err != nil {
		return -1, fmt.Errorf("overlay: fsmount: %w%s", err, said(ctx))
	}
	return fd, nil
}

// layer sets one option. With id mappings the lower layers are id-mapped clones, handed over by descriptor (Linux 6.13).
func (o *opened) layer(ctx int, opt string, s *plan.Source) error {
	key, value, has := strings.Cut(opt, "=")
	if !has {
		return unix.FsconfigSetFlag(ctx, key)
	}
	switch key {
	case "lowerdir+", "datadir+", "upperdir", "workdir":
	default:
		return unix.FsconfigSetString(ctx, key, value)
	}
	if len(s.UIDs) == 0 {
		return unix.FsconfigSetString(ctx, key, value)
	}
	if key == "upperdir" {
		if err := ownUpper(value, s); err != nil {
			return err
		}
	}
	if key == "upperdir" || key == "workdir" {
		return unix.FsconfigSetString(ctx, key, value)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, value, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	o.layers = append(o.layers, fd) // the tree is dissolved when this is closed: not before the overlay is made
	if err := o.idmap(fd, &plan.Source{UIDs: s.UIDs, GIDs: s.GIDs}); err != nil {
		return err
	}
	return unix.FsconfigSetFd(ctx, key, fd)
}

// ownUpper gives the upper directory, which is what the container sees as its root, the owner that stands for its own
// in the container. Upper and work directory are not id-mapped: overlayfs works in them with the ids of the host's root
// and creates files with the mapped ids of their makers.
func ownUpper(dir string, s *plan.Source) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	uid, gid := hostID(s.UIDs, st.Uid), hostID(s.GIDs, st.Gid)
	if uid == st.Uid && gid == st.Gid {
		return nil
	}
	return unix.Fchown(fd, int(uid), int(gid))
}

// hostID maps an id of the container; one that is the host's side of the mapping already stays.
func hostID(maps []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range maps {
		if id >= m.HostID && id-m.HostID < m.Size {
			return id
		}
	}
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID)
		}
	}
	return id
}

// said reads the message log of a file system context.
func said(ctx int) string {
	buf := make([]byte, 512)
	n, err := unix.Read(ctx, buf)
	if err != nil || n < 3 {
		return ""
	}
	return " (" + strings.TrimSpace(string(buf[2:n])) + ")"
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
