package inside

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH

func (b *box) stepMount(s *program.Step) error {
	switch s.Op {
	case program.OpPropagation:
		return unix.Mount("", "/", "", uintptr(s.Flags), "")
	case program.OpFilesystem:
		fd, err := newFilesystem(s.Data, s.List, int(s.Flags))
		if err != nil {
			return err
		}
		b.slots[s.Slot] = fd
		if s.Data == "proc" && b.proc < 0 {
			b.proc = fd
		}
		return nil
	case program.OpRoot:
		return b.attachRoot(b.slots[s.Slot], s.Path)
	case program.OpPivot:
		return b.pivot()
	case program.OpTree:
		fd, err := unix.OpenTree(int(b.root), "", clone|unix.AT_RECURSIVE)
		b.slots[s.Slot] = fd
		return err
	case program.OpChroot:
		return b.chroot(b.slots[s.Slot])
	case program.OpMount:
		return b.mount(s)
	case program.OpBind:
		return b.bind(s)
	case program.OpCopyUp:
		return b.copyUp(s)
	case program.OpAttr, program.OpShare:
		return b.root.attr(s)
	}
	return unix.ENOSYS
}

// newFilesystem makes a mount that is attached nowhere. What the kernel's parameter parser has to say is in the error.
func newFilesystem(kind string, options []string, attrs int) (int, error) {
	ctx, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(ctx)
	for _, o := range options {
		key, value, has := strings.Cut(o, "=")
		if has {
			err = unix.FsconfigSetString(ctx, key, value)
		} else {
			err = unix.FsconfigSetFlag(ctx, key)
		}
		if err != nil {
			return -1, fmt.Errorf("option %q: %w%s", o, err, said(ctx))
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("create: %w%s", err, said(ctx))
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w%s", err, said(ctx))
	}
	return fd, nil
}

// said reads the message log of a file system context (mount_api.rst, "Message log").
func said(ctx int) string {
	buf := make([]byte, 512)
	n, err := unix.Read(ctx, buf)
	if err != nil || n < 3 {
		return ""
	}
	return " (" + strings.TrimSpace(string(buf[2:n])) + ")"
}

// attachRoot mounts the new root over a directory of the old one, "/" as well. Its descriptor is where all resolution
// starts from now on.
func (b *box) attachRoot(fd int, at string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	b.root = tree(fd)
	return nil
}

func (b *box) pivot() error {
	if err := unix.Fchdir(int(b.root)); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("drop old root: %w", err)
	}
	return unix.Chdir("/")
}

// chroot makes a tree that need not be attached anywhere the root. Unlike a directory of the old root it cannot be left
// with "..": it has no parent.
func (b *box) chroot(fd int) error {
	if err := unix.Fchdir(fd); err != nil {
		return err
	}
	b.root = tree(fd)
	return unix.Chroot(".")
}

// mount attaches the tree in a slot. The roots of procfs and sysfs are remembered: masks below them are put on what was
// attached, wherever it is by then.
func (b *box) mount(s *program.Step) error {
	fd := b.slots[s.Slot]
	dir, err := isDir(fd)
	if err != nil {
		return err
	}
	kind := magic(fd)
	target, err := mountTarget(b, s.Path, dir, kind)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := attach(fd, target); err != nil {
		return err
	}
	if dir && ofKernel(kind) {
		b.kernel = append(b.kernel, attached{path.Clean("/" + s.Path), tree(fd)})
	}
	return nil
}

// attached is a file system of the kernel's own and where it was asked for.
type attached struct {
	path string
	root tree
}

func ofKernel(kind int64) bool { return kind == unix.PROC_SUPER_MAGIC || kind == unix.SYSFS_MAGIC }

// mountTarget returns a descriptor of what a file system of some kind is attached to, made when it is missing.
//
// procfs and sysfs go on ordinary directories only: an image that has a link there, or puts one there meanwhile, wants
// them somewhere else, with the masks on a directory of its own (CVE-2019-19921, CVE-2023-27561). And nothing but a few files
// that only inform is covered in a procfs, whichever way the path goes there.
func mountTarget(b *box, name string, dir bool, kind int64) (int, error) {
	if ofKernel(kind) {
		fd, err := b.root.open(name, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
		if err == unix.ENOENT {
			if fd, err = b.root.ensure(name, dir); err != nil {
				return -1, err
			}
			unix.Close(fd)
			fd, err = b.root.open(name, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
		}
		if err == unix.ELOOP {
			return -1, fmt.Errorf("target is a symbolic link: %w", err)
		}
		return fd, err
	}
	fd, err := b.root.ensure(name, dir)
	if err == nil && magic(fd) == unix.PROC_SUPER_MAGIC && !coverable(name) {
		unix.Close(fd)
		return -1, fmt.Errorf("target is inside of /proc: %w", fs.ErrPermission)
	}
	return fd, err
}

// below opens a path that is to be masked or made read-only. One below procfs or sysfs is resolved from that file
// system's own root, so that no directory of the image's can stand in for it.
func below(b *box, name string) (int, error) {
	name = path.Clean("/" + name)
	for i := len(b.kernel) - 1; i >= 0; i-- {
		if rest, ok := strings.CutPrefix(name, b.kernel[i].path+"/"); ok {
			return b.kernel[i].root.open(rest, unix.O_PATH, 0)
		}
	}
	return b.root.open(name, unix.O_PATH, 0)
}

// coverable lists what of /proc may be covered: files that only inform.
func coverable(p string) bool {
	switch path.Clean(p) {
	case "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
		"/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled", "/proc/net/dev":
		return true
	}
	return false
}

func attach(fd, target int) error {
	if err := unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// bind repeats a part of the container's own tree somewhere else in it.
func (b *box) bind(s *program.Step) error {
	from, err := b.root.open(s.Data, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	dir, err := isDir(from)
	if err != nil {
		return err
	}
	copied, err := unix.OpenTree(from, "", clone)
	if err != nil {
		return err
	}
	defer unix.Close(copied)
	if s.Flags != 0 {
		if err := unix.MountSetattr(copied, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: s.Flags}); err != nil {
			return err
		}
	}
	target, err := mountTarget(b, s.Path, dir, magic(copied))
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return attach(copied, target)
}

// attr changes the mount at a path that a step before this one made.
func (t tree) attr(s *program.Step) error {
	fd := int(t)
	if s.Path != "/" {
		var err error
		if fd, err = t.open(s.Path, unix.O_PATH, 0); err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	a := unix.MountAttr{Attr_set: s.Flags, Attr_clr: uint64(s.Num) >> 1}
	if s.Op == program.OpShare {
		a = unix.MountAttr{Propagation: s.Flags &^ unix.MS_REC}
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if s.Num&1 != 0 {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, &a)
}
