package oci

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Program is a runtime's program as it is executed again and again: open on a mount that is read-only and attached nowhere, so that
// nobody who gets hold of it, a container by way of /proc/PID/exe included (CVE-2019-5736), can write to it. berth-oci that is
// executed from there need not make such a mount itself for each container and each exec.
type Program struct {
	path string

	mu   sync.Mutex // guards the rest
	file *os.File
	st   unix.Stat_t
}

// NewProgram is for the program at a path.
func NewProgram(path string) *Program { return &Program{path: path} }

// Open returns the program, made once for each file that is found at its path. It stays the Program's: nobody closes it. nil: there
// is no such mount to be had, and the program has to be executed by its path.
func (p *Program) Open() *os.File {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var st unix.Stat_t
	if unix.Stat(p.path, &st) != nil {
		return nil // who executes it has words for it
	}
	if p.file != nil && st.Dev == p.st.Dev && st.Ino == p.st.Ino && st.Ctim == p.st.Ctim {
		return p.file
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, p.path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Attr_clr: unix.MOUNT_ATTR_NOEXEC}
	if unix.Fstat(fd, &st) != nil || unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr) != nil {
		unix.Close(fd)
		return nil
	}
	// One of before may be on its way to a monitor: it is closed when nobody has it any more.
	p.file, p.st = os.NewFile(uintptr(fd), p.path), st
	return p.file
}
