package inside

import (
	"fmt"
	"io/fs"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

func (b *box) stepNode(s *program.Step) error {
	switch s.Op {
	case program.OpDevice:
		return b.root.device(s)
	case program.OpSymlink:
		return b.root.symlink(s)
	case program.OpMask:
		return b.mask(s)
	case program.OpReadonly:
		return readonly(b, s.Path)
	case program.OpConsole:
		return b.console(s)
	case program.OpMkdir:
		fd, err := b.root.ensure(s.Path, true)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	return unix.ENOSYS
}

// device makes a node. One that exists is accepted when it is the very device: kind and number, not a link to one.
func (t tree) device(s *program.Step) error {
	at, base, err := t.parentOf(s.Path)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	err = unix.Mknodat(at, base, uint32(s.Flags), int(s.Num))
	if err != nil && err != unix.EEXIST {
		return err
	}
	fd, err2 := unix.Openat(at, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err2 != nil {
		return err2
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != uint32(s.Flags)&unix.S_IFMT || st.Mode&unix.S_IFMT != unix.S_IFIFO && st.Rdev != uint64(s.Num) {
		return fmt.Errorf("something else is there: %w", fs.ErrExist)
	}
	if err == unix.EEXIST || len(s.List) != 2 {
		return nil
	}
	uid, _ := strconv.Atoi(s.List[0])
	gid, _ := strconv.Atoi(s.List[1])
	if uid == 0 && gid == 0 {
		return nil
	}
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

func (t tree) symlink(s *program.Step) error {
	at, base, err := t.parentOf(s.Path)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if err := unix.Symlinkat(s.Data, at, base); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// mask covers a path: a directory with an empty read-only one, anything else with the null device. Both come from
// outside, so a container that brings its own /dev/null changes nothing. What does not exist needs no mask.
func (b *box) mask(s *program.Step) error {
	target, err := below(b, s.Path)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	dir, err := isDir(target)
	if err != nil {
		return err
	}
	slot := s.Slot
	if dir {
		slot = int(s.Num)
	}
	return b.attachCopy(slot, target)
}

// attachCopy attaches the tree in a slot the first time and copies of it later: a detached tree can be cloned only
// since Linux 6.15, an attached one always.
func (b *box) attachCopy(slot, target int) error {
	fd := b.slots[slot]
	if fd >= 0 {
		err := attach(fd, target)
		if err == nil {
			b.slots[slot] = -2 - fd
		}
		return err
	}
	copied, err := unix.OpenTree(-2-fd, "", clone)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(copied)
	return attach(copied, target)
}

func readonly(b *box, name string) error {
	target, err := below(b, name)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	copied, err := unix.OpenTree(target, "", clone|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(copied)
	if err := unix.MountSetattr(copied, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return attach(copied, target)
}

// console makes the pty, hands its master to the console socket and takes the slave as standard streams. The slave
// comes from the master (TIOCGPTPEER, Linux 4.13), never from a name in /dev/pts.
func (b *box) console(s *program.Step) error {
	pts := -1
	if s.Slot >= 0 {
		pts = b.slots[s.Slot]
	} else {
		fd, err := b.root.open("/dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("open /dev/pts: %w", err)
		}
		defer unix.Close(fd)
		pts = fd
	}
	if magic(pts) != unix.DEVPTS_SUPER_MAGIC {
		return fmt.Errorf("/dev/pts is not a devpts: %w", fs.ErrInvalid)
	}
	master, err := unix.Openat(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open ptmx: %w", err)
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock pty: %w", err)
	}
	slave, err := ptyPeer(master)
	if err != nil {
		return fmt.Errorf("open pty peer: %w", err)
	}
	defer unix.Close(slave)
	if s.Flags != 0 {
		ws := unix.Winsize{Row: uint16(s.Flags >> 16), Col: uint16(s.Flags)}
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &ws); err != nil {
			return fmt.Errorf("size: %w", err)
		}
	}
	if s.Data == "create" {
		if err := bindConsole(b, slave); err != nil {
			return err
		}
	}
	if err := unix.Sendmsg(b.slots[s.Num], []byte("/dev/ptmx"), unix.UnixRights(master), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("send pty master: %w", err)
	}
	return b.takeTerminal(slave)
}

func (b *box) takeTerminal(slave int) error {
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return err
		}
	}
	b.tty = true
	return unix.IoctlSetInt(0, unix.TIOCSCTTY, 0)
}

func bindConsole(b *box, slave int) error {
	copied, err := unix.OpenTree(slave, "", clone)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(copied)
	target, err := mountTarget(b, "/dev/console", false, 0)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return attach(copied, target)
}

func ptyPeer(master int) (int, error) {
	r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}
