package layer

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Names that carry meaning: OCI image specification, layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	metaPrefix     = ".wh..wh." // aufs bookkeeping (.wh..wh.plnk and others): never content
)

// applier applies one archive below the directory root. Nobody else writes there meanwhile.
type applier struct {
	root   int // O_PATH descriptor of the directory
	limits Limits
	tree   *node
	nodes  int
	last   place // the directory of the previous entry, kept open
	stale  bool  // last must be resolved anew
	res    Result
	buf    []byte
}

// Apply unpacks the tar stream r into the directory root and drains r. It resolves no name outside root, but only the
// jail of UnpackMain makes that so by construction; other callers are tests.
func Apply(root int, r io.Reader, limits Limits) (Result, error) {
	a := &applier{root: root, limits: limits.orDefault(), tree: &node{kind: implied}, last: place{fd: -1}, buf: make([]byte, 1<<18)}
	defer a.forget()
	a.account(block)
	if err := unix.Fchmodat(root, ".", 0o755, 0); err != nil {
		return Result{}, fmt.Errorf("root directory: %w", err)
	}
	r = bufio.NewReaderSize(r, 1<<16)
	tr := tar.NewReader(r)
	for left := a.limits.Entries; ; left-- {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil && left == 0 {
			err = fmt.Errorf("more than %d entries: %w", a.limits.Entries, unix.EFBIG)
		}
		if err != nil {
			return Result{}, fmt.Errorf("archive: %w", err)
		}
		if err := a.entry(h, tr); err != nil {
			return Result{}, fmt.Errorf("entry %q: %w", clip(h.Name), err)
		}
		if a.stale {
			a.forget()
			a.stale = false
		}
	}
	// What follows the end marker belongs to the stream, and so to its digest.
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, a.buf); err != nil {
		return Result{}, fmt.Errorf("archive: %w", err)
	}
	return a.finish()
}

// clip keeps an error line short whatever the archive calls its files.
func clip(name string) string {
	if len(name) > 256 {
		return name[:256] + "..."
	}
	return name
}

// entry applies one header. A name means what it would mean to a process whose root is the layer.
func (a *applier) entry(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("unknown type %q: %w", h.Typeflag, unix.EINVAL)
	}
	if strings.IndexByte(h.Name, 0) >= 0 || strings.IndexByte(h.Linkname, 0) >= 0 {
		return fmt.Errorf("NUL in a name: %w", unix.EINVAL)
	}
	name := path.Clean("/" + h.Name)
	if name == "/" {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is not a directory: %w", unix.EINVAL)
		}
		return a.describe(a.root, ".", a.tree, h)
	}
	dir, base := path.Split(name)
	p, err := a.resolve(dir, true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(p, base)
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return a.hide(p, base) // overlayfs would read it as a whiteout: so be it, knowingly
	}
	if h.Typeflag == tar.TypeDir {
		return a.directory(p, base, h)
	}
	return a.file(p, base, h, content)
}

// whiteout notes that names of lower layers are deleted.
func (a *applier) whiteout(p place, base string) error {
	if base == opaqueMarker {
		p.node.opaque = true
		return nil
	}
	if strings.HasPrefix(base, metaPrefix) {
		return nil
	}
	victim := strings.TrimPrefix(base, whiteoutPrefix)
	if victim == "" || victim == "." || victim == ".." {
		return fmt.Errorf("whiteout of nothing: %w", unix.EINVAL)
	}
	return a.hide(p, victim)
}

// hide makes a whiteout. It hides lower layers only: what this archive has put there, before or after, stays.
func (a *applier) hide(p place, victim string) error {
	if n := p.node.children[victim]; n != nil {
		n.opaque = n.opaque || n.dir()
		return nil
	}
	// A character device 0/0 needs no capability since Linux 5.8; before that CAP_MKNOD, which the jail keeps.
	switch err := unix.Mknodat(p.fd, victim, unix.S_IFCHR, 0); err {
	case nil:
	case unix.EEXIST: // a file of this archive
		return nil
	default:
		return fmt.Errorf("whiteout: %w", err)
	}
	a.account(0)
	return a.add(p.node, victim, &node{kind: whited})
}

// directory makes a directory, or takes over the one that is there.
func (a *applier) directory(p place, base string, h *tar.Header) error {
	n := p.node.children[base]
	if n != nil && n.dir() {
		return a.describe(p.fd, base, n, h)
	}
	hidden := n != nil && n.kind == whited
	if err := a.make(p, base, func() error { return unix.Mkdirat(p.fd, base, 0o700) }); err != nil {
		return err
	}
	n = &node{kind: described, opaque: hidden}
	if err := a.add(p.node, base, n); err != nil {
		return err
	}
	a.account(block)
	return a.describe(p.fd, base, n, h)
}

// make calls create, which must refuse to replace anything, and removes what is in its way.
func (a *applier) make(p place, base string, create func() error) error {
	if p.node.children[base] != nil {
		if err := a.remove(p, base); err != nil {
			return err
		}
	}
	err := create()
	if err != unix.EEXIST {
		return err
	}
	if err := a.remove(p, base); err != nil {
		return err
	}
	return create()
}

// describe gives a directory the attributes of its header.
func (a *applier) describe(dirfd int, base string, n *node, h *tar.Header) error {
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n.kind = described
	n.times = times(h)
	return attributes(fd, h)
}

// finish sets the times of directories, deepest first, and sums up.
func (a *applier) finish() (Result, error) {
	if err := a.close(a.root, ".", ".", a.tree); err != nil {
		return Result{}, err
	}
	slices.Sort(a.res.Implied)
	slices.Sort(a.res.Opaque)
	return a.res, nil
}

// close settles the directory base in dirfd, called name from the root, after everything below it.
func (a *applier) close(dirfd int, base, name string, n *node) error {
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("directory %q: %w", clip(name), err)
	}
	defer unix.Close(fd)
	for c, x := range n.children {
		if !x.dir() {
			continue
		}
		if err := a.close(fd, c, path.Join(name, c), x); err != nil {
			return err
		}
	}
	if n.opaque {
		a.res.Opaque = append(a.res.Opaque, name)
	}
	if n.kind == implied {
		a.res.Implied = append(a.res.Implied, name)
		return nil
	}
	if err := unix.UtimesNanoAt(fd, "", n.times[:], unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("times of %q: %w", clip(name), err)
	}
	return nil
}
