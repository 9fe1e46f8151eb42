package layer

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// kind is what the archive has made of a name so far.
type kind uint8

const (
	described kind = iota + 1 // a directory with a header of its own
	implied                   // a directory made because something below it came first
	symlink
	whited // a whiteout
)

// node is a directory, symbolic link or whiteout the archive has made. Other files have none: the file system knows
// them, and there may be many millions.
type node struct {
	kind     kind
	opaque   bool // directories: to be marked
	link     string
	times    [2]unix.Timespec // directories: set last, since making entries changes them
	children map[string]*node
}

func (n *node) dir() bool { return n.kind == described || n.kind == implied }

// maxNodes bounds the memory of the tree (some 150 bytes each), maxLinks the links followed for one name, as the
// kernel does with 40.
const (
	maxNodes = 1 << 20
	maxLinks = 40
)

// place is a directory of the layer with an open descriptor.
type place struct {
	name string // as the archive called it
	path string // without symbolic links
	node *node
	fd   int
}

// resolve finds the directory that name means in a file system whose root is the layer: symbolic links are followed,
// ".." stops at the root. What is missing is made when create is set. The descriptor stays the applier's.
func (a *applier) resolve(name string, create bool) (place, error) {
	if a.last.fd >= 0 && a.last.name == name {
		return a.last, nil
	}
	at, n := []string{}, a.tree
	todo := split(name)
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		if c == ".." {
			at = at[:max(0, len(at)-1)]
			n = a.find(at)
			continue
		}
		child := n.children[c]
		if child != nil && child.kind == symlink {
			if links++; links > maxLinks {
				return place{}, unix.ELOOP
			}
			todo = append(split(child.link), todo...)
			if strings.HasPrefix(child.link, "/") {
				at, n = at[:0:0], a.tree
			}
			continue
		}
		if child == nil || child.kind == whited {
			if !create {
				return place{}, unix.ENOENT
			}
			var err error
			if child, err = a.imply(n, at, c); err != nil {
				return place{}, err
			}
		}
		at, n = append(at[:len(at):len(at)], c), child
	}
	return a.enter(name, path.Join(at...), n)
}

// split gives the components of a path that name something, ".." included.
func split(p string) []string {
	var out []string
	for c := range strings.SplitSeq(p, "/") {
		if c != "" && c != "." {
			out = append(out, c)
		}
	}
	return out
}

// find walks components without symbolic links.
func (a *applier) find(at []string) *node {
	n := a.tree
	for _, c := range at {
		n = n.children[c]
	}
	return n
}

// imply makes a directory nobody described (yet).
func (a *applier) imply(parent *node, at []string, base string) (*node, error) {
	p, err := a.enter("", path.Join(at...), parent)
	if err != nil {
		return nil, err
	}
	hidden := false
	if c := parent.children[base]; c != nil { // a whiteout, then something below the same name: the lower directory is gone
		hidden = true
		if err := a.remove(p, base); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkdirat(p.fd, base, 0o755); err != nil {
		if err == unix.EEXIST {
			return nil, unix.ENOTDIR
		}
		return nil, err
	}
	n := &node{kind: implied, opaque: hidden}
	if err := a.add(parent, base, n); err != nil {
		return nil, err
	}
	a.account(block)
	return n, nil
}

// add links a node into the tree.
func (a *applier) add(parent *node, base string, n *node) error {
	if a.nodes++; a.nodes > maxNodes {
		return fmt.Errorf("more than %d directories, links and whiteouts: %w", maxNodes, unix.EFBIG)
	}
	if parent.children == nil {
		parent.children = map[string]*node{}
	}
	parent.children[base] = n
	return nil
}

// enter opens a directory known to the tree. The kernel is told to follow nothing, so a mistake here is an error and
// not a way out.
func (a *applier) enter(name, p string, n *node) (place, error) {
	if n == nil || !n.dir() {
		return place{}, unix.ENOTDIR
	}
	if a.last.fd >= 0 && a.last.node == n {
		a.last.name = name
		return a.last, nil
	}
	fd, err := unix.Openat2(a.root, "./"+p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath})
	if err != nil {
		return place{}, err
	}
	a.forget()
	a.last = place{name: name, path: p, node: n, fd: fd}
	return a.last, nil
}

const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// forget closes the directory kept open.
func (a *applier) forget() {
	if a.last.fd >= 0 {
		unix.Close(a.last.fd)
	}
	a.last = place{fd: -1}
}

// account notes one more inode with so many bytes.
func (a *applier) account(bytes int64) {
	a.res.Inodes++
	a.res.Bytes += uint64((bytes + block - 1) / block * block)
}

// remove takes away what stands at a name, with everything below it: the last of two entries of one name wins.
func (a *applier) remove(p place, base string) error {
	n := p.node.children[base]
	if n != nil && n.dir() {
		removed, err := removeAll(p.fd, base)
		a.res.Inodes -= min(removed, a.res.Inodes)
		if err != nil {
			return fmt.Errorf("replace: %w", err)
		}
	} else {
		if err := unix.Unlinkat(p.fd, base, 0); err != nil {
			return fmt.Errorf("replace: %w", err)
		}
		a.res.Inodes -= min(1, a.res.Inodes)
	}
	if n != nil {
		a.nodes -= n.count()
		delete(p.node.children, base)
		a.stale = true // a name that led through it now leads elsewhere
	}
	return nil
}

func (n *node) count() int {
	c := 1
	for _, x := range n.children {
		c += x.count()
	}
	return c
}

// removeAll removes a directory tree without following anything. It returns the number of files removed. The depth is
// bounded by the length of the paths that made the tree.
func removeAll(dirfd int, base string) (uint64, error) {
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	removed, err := removeEntries(fd)
	unix.Close(fd)
	if err != nil {
		return removed, err
	}
	return removed + 1, unix.Unlinkat(dirfd, base, unix.AT_REMOVEDIR)
}

func removeEntries(fd int) (uint64, error) {
	var removed uint64
	buf := make([]byte, 8192)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return removed, err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		if len(names) == 0 { // "." and ".." are left
			return removed, nil
		}
		for _, name := range names {
			err := unix.Unlinkat(fd, name, 0)
			if err == unix.EISDIR {
				var m uint64
				m, err = removeAll(fd, name)
				removed += m
			} else if err == nil {
				removed++
			}
			if err != nil {
				return removed, err
			}
		}
		// Entries went away below the directory position: start over, so that none is missed.
		if _, err := unix.Seek(fd, 0, 0); err != nil {
			return removed, err
		}
	}
}
