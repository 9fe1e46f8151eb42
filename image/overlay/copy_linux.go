package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyLimits bound what one Copy takes.
type CopyLimits struct {
	Bytes   int64 // of file content
	Entries int64
}

// ErrCopyLimit is wrapped by the error of a Copy that met a limit.
var ErrCopyLimit = errors.New("copy is larger than its limit")

// maxDepth bounds the descriptors that are open at once: one for each directory on the way, in each layer.
const maxDepth = 256

// Copy fills dir, which exists and is empty, with what the directories hold as a stack, top first, as Sub returns them: owners,
// modes, times, hard links, and the extended attributes an image may have. Devices and sockets are left out; a FIFO is made
// anew. dir itself gets the attributes of the topmost.
//
// Nothing in the directories can lead elsewhere: every step is one component from an open directory, without following a link,
// and files are opened only after a look at what they are. That is why this needs no process of its own, as unpacking
// an archive does: there is nothing to parse.
func Copy(ctx context.Context, dirs []string, dir string, limits CopyLimits) error {
	c := &copier{ctx: ctx, limits: limits, linked: map[[2]uint64]string{}, buf: make([]byte, 256<<10)}
	var from []int
	defer func() { closeAll(from) }()
	for _, d := range dirs {
		fd, err := unix.Open(d, dirFlags, 0)
		if err != nil {
			return fmt.Errorf("copy %s: %w", d, err)
		}
		from = append(from, fd)
	}
	if len(from) == 0 {
		return nil
	}
	var err error
	if c.root, err = unix.Open(dir, dirFlags, 0); err != nil {
		return fmt.Errorf("copy to %s: %w", dir, err)
	}
	defer unix.Close(c.root)
	if err := c.directory(from, c.root, ""); err != nil {
		return fmt.Errorf("copy %s: %w", dirs[0], err)
	}
	return nil
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

type copier struct {
	ctx    context.Context
	root   int
	limits CopyLimits
	linked map[[2]uint64]string // first copy, below root, of files with more than one name
	buf    []byte
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// directory copies what is in a stack of open directories into an open one, called at below the root.
func (c *copier) directory(from []int, to int, at string) error {
	if strings.Count(at, "/") > maxDepth {
		return fmt.Errorf("more than %d directories deep: %w", maxDepth, ErrCopyLimit)
	}
	seen := map[string]bool{}
	for i, fd := range from {
		names, err := readNames(fd)
		if err != nil {
			return err
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			if err := c.entry(from[i:], name, to, path.Join(at, name)); err != nil {
				return err
			}
		}
	}
	return attributes(from[0], to)
}

// readNames lists an open directory without taking its descriptor over.
func readNames(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", dirFlags, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "")
	defer f.Close()
	return f.Readdirnames(-1)
}

// entry copies one name; the first of the stack has it.
func (c *copier) entry(from []int, name string, to int, at string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.limits.Entries--; c.limits.Entries < 0 {
		return fmt.Errorf("too many entries: %w", ErrCopyLimit)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(from[0], name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = c.subdirectory(from, name, to, at)
	case unix.S_IFREG:
		err = c.regular(from[0], name, &st, to, at)
	case unix.S_IFLNK:
		err = copyLink(from[0], name, &st, to)
	case unix.S_IFIFO:
		if err = unix.Mknodat(to, name, unix.S_IFIFO|st.Mode&0o7777, 0); err == nil {
			err = named(to, name, &st)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

// subdirectory opens what each layer has of a directory, down to where something hides the rest, and goes on in it.
func (c *copier) subdirectory(from []int, name string, to int, at string) error {
	var sub []int
	defer func() { closeAll(sub) }()
	for _, fd := range from {
		one, err := unix.Openat(fd, name, dirFlags, 0)
		if err == unix.ENOENT {
			continue
		}
		if err == unix.ENOTDIR || err == unix.ELOOP {
			break // a file, a link or a whiteout hides what is below
		}
		if err != nil {
			return err
		}
		sub = append(sub, one)
		if opaque(one) {
			break
		}
	}
	if len(sub) == 0 {
		return fs.ErrNotExist
	}
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	out, err := unix.Openat(to, name, dirFlags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	return c.directory(sub, out, at)
}

func (c *copier) regular(from int, name string, st *unix.Stat_t, to int, at string) error {
	id := [2]uint64{uint64(st.Dev), st.Ino}
	if first, ok := c.linked[id]; ok {
		// Nobody else writes below the root: the name leads where it led.
		return unix.Linkat(c.root, first, to, name, 0)
	}
	src, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	if c.limits.Bytes -= st.Size; c.limits.Bytes < 0 {
		return fmt.Errorf("too many bytes: %w", ErrCopyLimit)
	}
	dst, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := c.content(src, dst); err != nil {
		return err
	}
	if st.Nlink > 1 {
		c.linked[id] = at
	}
	return attributes(src, dst)
}

// content shares the blocks where the file system can (ioctl_ficlone(2)), else copies.
func (c *copier) content(src, dst int) error {
	if unix.IoctlFileClone(dst, src) == nil {
		return nil
	}
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Read(src, c.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		for out := c.buf[:n]; len(out) > 0; {
			m, err := unix.Write(dst, out)
			if err != nil && err != unix.EINTR {
				return err
			}
			if m == 0 && err == nil {
				return io.ErrShortWrite
			}
			out = out[max(m, 0):]
		}
	}
}

func copyLink(from int, name string, st *unix.Stat_t, to int) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(from, name, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), to, name); err != nil {
		return err
	}
	return named(to, name, st)
}

// named gives owner, mode and times to what can't be opened.
func named(dirfd int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(dirfd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dirfd, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dirfd, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// attributes gives one open file those of another.
func attributes(from, to int) error {
	return attributesOf(from, to, func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(from, &st); err != nil {
			return err
		}
		return unix.Fchown(fd, int(st.Uid), int(st.Gid))
	})
}

// attributesOf copies all but the owner, which chown sets. That comes first: it clears set-user-ID bits and capabilities.
func attributesOf(from, to int, chown func(fd int) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := chown(to); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
}

func copyXattrs(from, to int) error {
	list := make([]byte, 64<<10)
	n, err := unix.Flistxattr(from, list)
	if err == unix.ENOTSUP || n <= 0 {
		return nil
	}
	value := make([]byte, 64<<10)
	for attr := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !wanted(attr) {
			continue
		}
		m, err := unix.Fgetxattr(from, attr, value)
		if err != nil {
			return fmt.Errorf("attribute %q: %w", attr, err)
		}
		if err := unix.Fsetxattr(to, attr, value[:m], 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("attribute %q: %w", attr, err)
		}
	}
	return nil
}

// wanted says which extended attributes go with a copy: those an image may have, none that are orders to overlayfs or the
// policy of a security module.
func wanted(attr string) bool {
	if slices.Contains([]string{"security.capability", "system.posix_acl_access", "system.posix_acl_default"}, attr) {
		return true
	}
	return strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.")
}
