package inside

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// inRoot is how every path of a container is resolved: beneath its root, ".." and absolute links included, and never
// through /proc magic links.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// tree is the container's root by descriptor; all resolution starts there.
type tree int

// open resolves name in the root. openat2 answers EAGAIN when a rename or mount happened meanwhile and it can't tell
// whether the path stayed inside; a container that renames all the time gets an error in the end, not an escape.
func (t tree) open(name string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: inRoot | resolve}
	for range 1000 {
		fd, err := unix.Openat2(int(t), name, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// ensure returns an O_PATH descriptor of name, which is made when it is missing: as a directory, or as an empty file.
// Parents are directories of mode 0755. Everything is created relative to a descriptor and with O_EXCL, so a name that
// appears in between is looked at again, not followed. Dangling links lead to where they point inside the root.
func (t tree) ensure(name string, dir bool) (int, error) {
	for range 64 {
		fd, err := t.open(name, unix.O_PATH, 0)
		if err != unix.ENOENT {
			return fd, err
		}
		parent, base := split(name)
		if base == "" || base == "." || base == ".." {
			return -1, err
		}
		at, err := t.ensure(parent, true)
		if err != nil {
			return -1, err
		}
		fd, next, err := makeIn(at, base, dir)
		unix.Close(at)
		if err != nil || fd >= 0 {
			return fd, err
		}
		if next != "" {
			name = next
			if !strings.HasPrefix(next, "/") {
				name = parent + "/" + next
			}
		}
	}
	return -1, unix.ELOOP
}

// makeIn makes base in the directory at. When something of that name exists already it returns -1, and the target if
// that is a symbolic link.
func makeIn(at int, base string, dir bool) (fd int, link string, err error) {
	if dir {
		err = unix.Mkdirat(at, base, 0o755)
	} else {
		fd, err = unix.Openat(at, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_WRONLY, 0o644)
		if err == nil {
			unix.Close(fd)
		}
	}
	if err == unix.EEXIST {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(at, base, buf)
		if err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return -1, "", err
		}
		return -1, string(buf[:max(n, 0)]), nil
	}
	if err != nil {
		return -1, "", fmt.Errorf("create %s: %w", base, err)
	}
	flags := unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if dir {
		flags |= unix.O_DIRECTORY
	}
	fd, err = unix.Openat(at, base, flags, 0)
	return fd, "", err
}

func split(name string) (parent, base string) {
	name = strings.TrimRight(name, "/")
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "/", name
	}
	return name[:i+1], name[i+1:]
}

// parentOf returns the directory that holds name, made when missing, and the last element.
func (t tree) parentOf(name string) (int, string, error) {
	dir, base := path.Split(strings.TrimRight(name, "/"))
	if base == "" || base == "." || base == ".." {
		return -1, "", fmt.Errorf("%q: %w", name, fs.ErrInvalid)
	}
	fd, err := t.ensure("/"+dir, true)
	if err != nil {
		return -1, "", err
	}
	return fd, base, nil
}

func isDir(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

func magic(fd int) int64 {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return 0
	}
	return st.Type
}
