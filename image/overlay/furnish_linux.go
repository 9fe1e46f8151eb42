package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Item is something a container finds in its root file system although the image does not have it so.
type Item struct {
	Name    string // relative, clean: "etc/mtab"
	Link    string // target of a symbolic link; "" for a file
	Data    []byte // content of a file
	Replace bool   // in place of the image's regular file, with its owner and mode; otherwise only where the image has nothing
}

// Furnish puts items into the upper directory that Prepare made, before it is mounted. An item is left out where its directory is not
// one in the image, or is reached through a link: nothing is made that the image did not make room for.
//
// owner turns ids of the image into those they have in the upper directory, which is not id-mapped when the layers below it are;
// nil leaves them.
func Furnish(upper string, layers []string, owner func(uid, gid uint32) (int, int), items ...Item) error {
	if owner == nil {
		owner = func(uid, gid uint32) (int, int) { return int(uid), int(gid) }
	}
	f := furnisher{upper, layers, owner}
	for _, it := range items {
		if err := f.put(it); err != nil {
			return fmt.Errorf("make /%s: %w", it.Name, err)
		}
	}
	return nil
}

type furnisher struct {
	upper  string
	layers []string
	owner  func(uid, gid uint32) (int, int)
}

func (f furnisher) put(it Item) error {
	upper, layers := f.upper, f.layers
	at, e, err := Find(layers, it.Name)
	if err != nil {
		return err
	}
	if fits := e == Absent && !it.Replace || e == File && it.Replace; !fits {
		return nil
	}
	parents := ancestors(it.Name)
	if plain, err := directories(layers, parents); err != nil || !plain {
		return err
	}
	for _, p := range parents {
		if err := os.Mkdir(filepath.Join(upper, p), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if it.Link != "" {
		err = f.link(it)
	} else {
		err = f.write(layers[at], it)
	}
	if err != nil {
		return err
	}
	// From the innermost: what is made in a directory changes its times.
	for i := len(parents) - 1; i >= 0; i-- {
		if err := f.like(parents[i]); err != nil {
			return err
		}
	}
	return f.root()
}

// root gives the upper directory itself its times back. Its owner is left: whoever mounts it maps that.
func (f furnisher) root() error {
	var st unix.Stat_t
	if err := unix.Stat(f.layers[0], &st); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, f.upper, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// directories reports whether all the names are directories in the image.
func directories(layers, names []string) (bool, error) {
	for _, p := range names {
		_, e, err := Find(layers, p)
		if err != nil || e != Directory && e != Opaque {
			return false, err
		}
	}
	return true, nil
}

func (f furnisher) link(it Item) error {
	name := filepath.Join(f.upper, it.Name)
	if err := os.Symlink(it.Link, name); err != nil {
		return err
	}
	uid, gid := f.owner(0, 0)
	return os.Lchown(name, uid, gid)
}

func (f furnisher) write(layer string, it Item) error {
	to, err := unix.Open(filepath.Join(f.upper, it.Name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(to), it.Name)
	defer file.Close()
	if _, err := file.Write(it.Data); err != nil {
		return err
	}
	if !it.Replace {
		uid, gid := f.owner(0, 0)
		return errors.Join(unix.Fchown(to, uid, gid), unix.Fchmod(to, 0o644))
	}
	from, err := openRegular(layer, it.Name)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return f.attributes(from, to)
}

// like gives a directory of upper the attributes it has in the image.
func (f furnisher) like(name string) error {
	i, _, err := Find(f.layers, name)
	if err != nil {
		return err
	}
	from, err := OpenDir(f.layers[i], name)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := unix.Open(path.Join(f.upper, name), dirFlags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return f.attributes(from, to)
}

// attributes gives one open file those of another, the owner mapped.
func (f furnisher) attributes(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	return attributesOf(from, to, func(fd int) error {
		uid, gid := f.owner(st.Uid, st.Gid)
		return unix.Fchown(fd, uid, gid)
	})
}
