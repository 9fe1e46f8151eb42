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
		return b.root.bind(s)
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

// mount attaches the tree in a slot. File systems of the kernel's own, procfs and sysfs, go on ordinary directories
// only: an image that has a link there wants them somewhere else.
func (b *box) mount(s *program.Step) error {
	fd := b.slots[s.Slot]
	dir, err := isDir(fd)
	if err != nil {
		return err
	}
	kind := magic(fd)
	if kind == unix.PROC_SUPER_MAGIC || kind == unix.SYSFS_MAGIC {
		if link, err := b.root.open(s.Path, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS); err == nil {
			unix.Close(link)
		} else if err == unix.ELOOP {
			return fmt.Errorf("target is a symbolic link: %w", err)
		}
	}
	target, err := b.root.ensure(s.Path, dir)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if kind != unix.PROC_SUPER_MAGIC && magic(target) == unix.PROC_SUPER_MAGIC && !coverable(s.Path) {
		return fmt.Errorf("target is inside of /proc: %w", fs.ErrPermission)
	}
	return attach(fd, target)
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
func (t tree) bind(s *program.Step) error {
	from, err := t.open(s.Data, unix.O_PATH, 0)
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
	target, err := t.ensure(s.Path, dir)
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
