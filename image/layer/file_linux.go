package layer

import (
	"archive/tar"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// file makes anything but a directory or a whiteout.
func (a *applier) file(p place, base string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return a.regular(p, base, h, content)
	case tar.TypeLink:
		return a.hardLink(p, base, h.Linkname)
	case tar.TypeSymlink:
		if err := a.make(p, base, func() error { return unix.Symlinkat(h.Linkname, p.fd, base) }); err != nil {
			return err
		}
		if err := a.add(p.node, base, &node{kind: symlink, link: h.Linkname}); err != nil {
			return err
		}
	default:
		mode, dev, err := special(h)
		if err != nil {
			return err
		}
		if err := a.make(p, base, func() error { return unix.Mknodat(p.fd, base, mode, dev) }); err != nil {
			return err
		}
	}
	a.account(0)
	return named(p.fd, base, h)
}

// regular makes a regular file with its content.
func (a *applier) regular(p place, base string, h *tar.Header, content io.Reader) error {
	// The size is the header's word: a sparse file may claim exabytes in one block of archive.
	if h.Size > a.limits.Bytes {
		return fmt.Errorf("layer has more than its limit of bytes: %w", unix.EFBIG)
	}
	a.limits.Bytes -= h.Size
	fd := -1
	err := a.make(p, base, func() (err error) {
		fd, err = unix.Openat(p.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := content.Read(a.buf)
		for out := a.buf[:n]; len(out) > 0; {
			m, err := unix.Write(fd, out)
			if err != nil && err != unix.EINTR {
				return err
			}
			out = out[max(m, 0):]
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	a.account(h.Size)
	if err := attributes(fd, h); err != nil {
		return err
	}
	t := times(h)
	return unix.UtimesNanoAt(fd, "", t[:], unix.AT_EMPTY_PATH)
}

// hardLink gives a file of this layer another name. The target must be in the same layer: a layer is a directory of
// its own, and a link can't leave it.
func (a *applier) hardLink(p place, base, target string) error {
	name := path.Clean("/" + target)
	dir, old := path.Split(name)
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 3) // resolve may drop p's
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	from, err := a.resolve(dir, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", clip(target), err)
	}
	if from.node == p.node && old == base {
		return nil
	}
	if n := from.node.children[old]; n != nil && n.kind == whited {
		return fmt.Errorf("hard link to %q, which is deleted: %w", clip(target), unix.ENOENT)
	}
	p.fd = fd
	err = a.make(p, base, func() error { return unix.Linkat(from.fd, old, fd, base, 0) })
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", clip(target), err)
	}
	if n := from.node.children[old]; n != nil && n.kind == symlink {
		return a.add(p.node, base, &node{kind: symlink, link: n.link})
	}
	return nil
}

// special gives mode and number of a device or FIFO.
func special(h *tar.Header) (uint32, int, error) {
	switch h.Typeflag {
	case tar.TypeFifo:
		return unix.S_IFIFO, 0, nil
	case tar.TypeChar, tar.TypeBlock:
		// The kernel has 12 bits of major and 20 of minor (include/linux/kdev_t.h); mknod would drop the rest.
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return 0, 0, fmt.Errorf("device number %d:%d: %w", h.Devmajor, h.Devminor, unix.EINVAL)
		}
	}
	mode := uint32(unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		mode = unix.S_IFBLK
	}
	return mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))), nil
}

// owner checks what fchown would cut off: (uid_t)-1 means "leave it".
func owner(h *tar.Header) (int, int, error) {
	if h.Uid < 0 || int64(h.Uid) >= math.MaxUint32 || h.Gid < 0 || int64(h.Gid) >= math.MaxUint32 {
		return 0, 0, fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, unix.EINVAL)
	}
	return h.Uid, h.Gid, nil
}

// attributes gives an open file or directory owner, mode and extended attributes, in the order in which none clears
// another: chown drops set-user-ID bits and file capabilities.
func attributes(fd int, h *tar.Header) error {
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return fmt.Errorf("owner %d:%d: %w", uid, gid, err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return fmt.Errorf("mode %o: %w", h.Mode, err)
	}
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if !ok || !kept(attr) {
			continue
		}
		err := unix.Fsetxattr(fd, attr, []byte(v), 0)
		if err == unix.ENOTSUP && !strings.HasPrefix(attr, "security.") {
			continue // the file system has none; programs that need them say so
		}
		if err != nil {
			return fmt.Errorf("attribute %q: %w", clip(attr), err)
		}
	}
	return nil
}

// kept says which extended attributes an image may set. trusted.overlay.* and user.overlay.* are orders to overlayfs;
// labels of security modules are the host's policy.
func kept(attr string) bool {
	switch attr {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.")
}

// named gives owner, mode and times to a file that can't be opened: a link, device or FIFO just made.
func named(dirfd int, base string, h *tar.Header) error {
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(dirfd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", uid, gid, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dirfd, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("mode %o: %w", h.Mode, err)
		}
	}
	t := times(h)
	return unix.UtimesNanoAt(dirfd, base, t[:], unix.AT_SYMLINK_NOFOLLOW)
}

// times gives access and modification time; a header without the former has the latter twice. Times out of what the
// kernel takes are cut.
func times(h *tar.Header) [2]unix.Timespec {
	conv := func(t time.Time) unix.Timespec {
		return unix.Timespec{Sec: min(max(t.Unix(), math.MinInt32), math.MaxUint32), Nsec: int64(t.Nanosecond())}
	}
	m := conv(h.ModTime)
	if h.AccessTime.IsZero() {
		return [2]unix.Timespec{m, m}
	}
	return [2]unix.Timespec{conv(h.AccessTime), m}
}
