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
func Furnish(upper string, layers []string, items ...Item) error {
	for _, it := range items {
		if err := furnish(upper, layers, it); err != nil {
			return fmt.Errorf("make /%s: %w", it.Name, err)
		}
	}
	return nil
}

func furnish(upper string, layers []string, it Item) error {
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
		err = os.Symlink(it.Link, filepath.Join(upper, it.Name))
	} else {
		err = writeItem(upper, layers[at], it)
	}
	if err != nil {
		return err
	}
	// From the innermost: what is made in a directory changes its times.
	for i := len(parents) - 1; i >= 0; i-- {
		if err := like(layers, parents[i], upper); err != nil {
			return err
		}
	}
	return like(layers, ".", upper)
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

func writeItem(upper, layer string, it Item) error {
	to, err := unix.Open(filepath.Join(upper, it.Name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(to), it.Name)
	defer f.Close()
	if _, err := f.Write(it.Data); err != nil {
		return err
	}
	if !it.Replace {
		return unix.Fchmod(to, 0o644)
	}
	from, err := openRegular(layer, it.Name)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return attributes(from, to)
}

// like gives a directory of upper the attributes it has in the image.
func like(layers []string, name, upper string) error {
	i, _, err := Find(layers, name)
	if err != nil {
		return err
	}
	from, err := OpenDir(layers[i], name)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := unix.Open(path.Join(upper, name), dirFlags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return attributes(from, to)
}
