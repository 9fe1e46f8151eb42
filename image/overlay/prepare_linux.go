package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Prepare makes dir/upper and dir/work for a container on a stack whose top layer is top ("" means none). The upper directory is
// the root of the merged tree, so it has the mode, owner and times the image gives its root. dir exists. Prepare is idempotent
// as long as nothing is mounted.
func Prepare(dir, top string) error {
	var st unix.Stat_t
	st.Mode = 0o755
	if top != "" {
		if err := unix.Stat(top, &st); err != nil {
			return fmt.Errorf("layer %s: %w", top, err)
		}
	}
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range [...]string{upper, work} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := os.Lchown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod %s: %w", upper, err)
	}
	if top == "" {
		return nil
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// Usage counts bytes on disk and inodes of a writable directory, the directory itself included. It walks the tree: not for a request's path. What vanishes
// meanwhile is not counted. A file with several names counts once.
func Usage(upper string) (bytes, inodes uint64, err error) {
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("usage of %s: %w", upper, err)
	}
	c := &counter{linked: map[[2]uint64]bool{}}
	err = c.dir(fd)
	if err != nil {
		return 0, 0, fmt.Errorf("usage of %s: %w", upper, err)
	}
	return c.bytes, c.inodes, nil
}

type counter struct {
	bytes, inodes uint64
	linked        map[[2]uint64]bool // files with more than one name
}

func (c *counter) add(st *unix.Stat_t) {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if c.linked[id] {
			return
		}
		c.linked[id] = true
	}
	c.inodes++
	c.bytes += uint64(st.Blocks) * 512
}

// dir counts an open directory and what is below, and closes it.
func (c *counter) dir(fd int) error {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	c.add(&st)
	for {
		names, err := f.Readdirnames(512)
		for _, n := range names {
			if err := c.entry(fd, n); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			return nil // the end, or the directory is gone
		}
	}
}

func (c *counter) entry(dirfd int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		c.add(&st)
		return nil
	}
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		return c.dir(fd)
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil
	}
	return err
}
