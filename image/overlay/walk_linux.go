package overlay

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is what one layer has at a name.
type Entry int

// What Lookup finds.
const (
	Absent Entry = iota
	Whiteout
	Directory
	Opaque // a directory that hides those below it
	Link   // a symbolic link
	File   // anything else
)

// Lookup says what the layer directory has at a name without symbolic links on the way: "." or relative components.
// Absent includes a name below something that is no directory.
func Lookup(layer, name string) (Entry, error) {
	var st unix.Stat_t
	fd, err := openBeneath(layer, name, unix.O_PATH|unix.O_NOFOLLOW)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return Absent, nil
	default:
		return Absent, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return Absent, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return Whiteout, nil
		}
	case unix.S_IFLNK:
		return Link, nil
	case unix.S_IFDIR:
		return directory(layer, name)
	}
	return File, nil
}

func directory(layer, name string) (Entry, error) {
	fd, err := openBeneath(layer, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return Absent, err
	}
	defer unix.Close(fd)
	if opaque(fd) {
		return Opaque, nil
	}
	return Directory, nil
}

// opaque reports whether an open directory hides those below it.
func opaque(fd int) bool {
	var v [1]byte
	n, err := unix.Fgetxattr(fd, "trusted.overlay.opaque", v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

func openBeneath(layer, name string, flags uint64) (int, error) {
	root, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	if name == "" {
		name = "."
	}
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	// RESOLVE_NO_SYMLINKS with O_PATH|O_NOFOLLOW still opens a link that is the last component (openat2(2)).
	return unix.Openat2(root, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_SYMLINKS})
}

// Find says which layer of the stack provides a name without symbolic links on the way, and what it is there:
// Absent when none does.
func Find(layers []string, name string) (int, Entry, error) {
	parents := ancestors(name)
	for i, l := range layers {
		e, err := Lookup(l, name)
		if err != nil {
			return 0, Absent, err
		}
		switch e {
		case Whiteout:
			return i, Absent, nil
		case Absent:
		default:
			return i, e, nil
		}
		for _, p := range parents {
			pe, err := Lookup(l, p)
			if err != nil {
				return 0, Absent, err
			}
			if pe == Absent {
				break
			}
			if pe != Directory {
				return i, Absent, nil // hidden: a whiteout, an opaque directory, or a file where a directory was
			}
		}
	}
	return 0, Absent, nil
}

// ancestors lists the directories above a name, outermost first, without the root.
func ancestors(name string) []string {
	var out []string
	for p := path.Dir(name); p != "." && p != "/"; p = path.Dir(p) {
		out = append(out, p)
	}
	slices.Reverse(out)
	return out
}

// walk opens a regular file of the merged stack component by component.
func walk(layers []string, name string) (int, error) {
	i, at, e, err := resolve(layers, name)
	switch {
	case err != nil:
		return -1, err
	case e != File:
		return -1, fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	case strings.HasSuffix(name, "/"):
		return -1, unix.ENOTDIR
	}
	return openRegular(layers[i], at)
}

// resolve follows a name through the merged stack, links inside it and ".." of the root being the root. It returns the topmost layer
// that has the end of it, the name there, which has no links, and what it is: a directory or a file.
func resolve(layers []string, name string) (layer int, at string, e Entry, err error) {
	at, e = ".", Directory
	todo := components(name)
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		if c == ".." {
			at, layer, e = path.Dir(at), 0, Directory
			continue
		}
		next := path.Join(at, c)
		i, found, err := Find(layers, next)
		if err != nil {
			return 0, "", Absent, err
		}
		switch found {
		case Absent:
			return 0, "", Absent, fs.ErrNotExist
		case Directory, Opaque:
			layer, at, e = i, next, found
		case Link:
			if links++; links > 40 {
				return 0, "", Absent, unix.ELOOP
			}
			target, err := readLink(layers[i], next)
			if err != nil {
				return 0, "", Absent, err
			}
			if strings.HasPrefix(target, "/") {
				at = "."
			}
			layer, e = 0, Directory
			todo = append(components(target), todo...)
		default:
			if len(todo) > 0 {
				return 0, "", Absent, unix.ENOTDIR
			}
			return i, next, File, nil
		}
	}
	return layer, at, e, nil
}

// Sub finds a directory or a regular file of the merged stack, links resolved inside it. For a directory it returns the directories
// of the layers that make it up, top first: a stack of its own. For a file it returns its path. What is found has no link on
// the way, so that it can be mounted by that name as long as nobody writes to the layers. Missing is fs.ErrNotExist, another
// kind of file fs.ErrInvalid.
func Sub(layers []string, name string) (dirs []string, file string, err error) {
	i, at, e, err := resolve(layers, name)
	if err != nil {
		return nil, "", &fs.PathError{Op: "find", Path: name, Err: err}
	}
	if e != File {
		dirs, err = stack(layers, at)
		return dirs, "", err
	}
	fd, err := openRegular(layers[i], at)
	if err != nil {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: err}
	}
	unix.Close(fd)
	return nil, path.Join(layers[i], at), nil
}

// stack lists what each layer has of a merged directory, down to where something hides the layers below.
func stack(layers []string, at string) ([]string, error) {
	var out []string
	for len(layers) > 0 {
		i, e, err := Find(layers, at)
		if err != nil {
			return nil, err
		}
		if e != Directory && e != Opaque {
			break
		}
		out = append(out, path.Join(layers[i], at))
		if e == Opaque {
			break
		}
		hidden, err := hides(layers[i], at)
		if err != nil {
			return nil, err
		}
		if hidden {
			break
		}
		layers = layers[i+1:]
	}
	return out, nil
}

// hides reports whether a layer hides those below it at a name it has a directory at: by an opaque directory above.
func hides(layer, name string) (bool, error) {
	for _, p := range ancestors(name) {
		e, err := Lookup(layer, p)
		if err != nil {
			return false, err
		}
		if e != Directory {
			return true, nil
		}
	}
	return false, nil
}

func components(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(c string) bool { return c == "" || c == "." })
}

func readLink(layer, name string) (string, error) {
	fd, err := openBeneath(layer, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func openRegular(layer, name string) (int, error) {
	fd, err := openBeneath(layer, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	}
	return openBeneath(layer, name, readFlags)
}

// OpenDir opens a directory of one layer for reading, through no link. The caller closes it.
func OpenDir(layer, name string) (int, error) {
	return openBeneath(layer, name, unix.O_RDONLY|unix.O_DIRECTORY)
}
