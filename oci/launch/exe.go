package launch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/become"
)

// openExe returns this very program as a descriptor whose file can't be opened for writing through /proc/PID/exe, by
// nobody, root in a container included (CVE-2019-5736): on a mount that is read-only and attached nowhere, so that
// there is nothing to remount.
//
// Who executes this program often makes that mount once and executes it from there (package oci, Program): then it is that one.
// The root of a mount that is attached nowhere is "/" to d_path, and nothing else that can be executed is.
func openExe() (*os.File, error) {
	const self = "/proc/self/exe"
	if name, err := os.Readlink(self); err == nil && name == "/" {
		if fd, err := unix.Open(self, unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
			if become.ReadOnly(fd) {
				return os.NewFile(uintptr(fd), "exe"), nil
			}
			unix.Close(fd)
		}
	}
	return exeAt(self)
}

// openExe is that for a container, which has a user namespace or not.
//
// In a container with a user namespace whoever is root there may look into every process of that namespace, and an
// init begins in the host's view: its root directory is the host's. What keeps them out is that the init is not
// dumpable (ptrace(2)). An exec sets that back, so saying it again afterwards leaves a moment in between; but a program
// that who executes it may not read is not dumpable from its first instruction on, and belongs to the host's user
// namespace whatever its own (would_dump in fs/exec.c, since Linux 4.10). So the init of such a container is
// executed from a copy that nobody may read.
func (r *Runtime) openExe(userns bool) (*os.File, error) {
	if !userns {
		return openExe()
	}
	name, err := unreadable(r.Root + "/.exe")
	if err != nil {
		return sealedExe()
	}
	return exeAt(name)
}

func exeAt(name string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Attr_clr: unix.MOUNT_ATTR_NOEXEC})
		if err == nil {
			return os.NewFile(uintptr(fd), "exe"), nil
		}
		unix.Close(fd)
	}
	return sealedExe()
}

// What the copy is: it may be executed by all and read by none, not even by its owner, who is nobody that an id mapping
// would name.
const (
	unreadableMode  = 0o111
	unreadableOwner = 1<<32 - 2
)

// unreadable returns the name of a copy of this program in dir that nobody may read. It is made once for each version.
func unreadable(dir string) (string, error) {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer from.Close()
	var st, have unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return "", err
	}
	name := fmt.Sprintf("%s/%x-%x-%x-%x", dir, st.Dev, st.Ino, st.Ctim.Nano(), st.Size)
	err = unix.Lstat(name, &have)
	if err == nil && have.Mode == unix.S_IFREG|unreadableMode && have.Uid == unreadableOwner && have.Size == st.Size {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	old, _ := filepath.Glob(dir + "/*")
	to, err := os.CreateTemp(dir, "new")
	if err != nil {
		return "", err
	}
	defer to.Close()
	if _, err = io.Copy(to, from); err == nil {
		err = hide(to)
	}
	if err == nil {
		err = os.Rename(to.Name(), name)
	}
	if err != nil {
		os.Remove(to.Name())
		return "", err
	}
	for _, f := range old {
		os.Remove(f) // of versions before this one; what executes them keeps them
	}
	return name, nil
}

func hide(f *os.File) error {
	if err := f.Chown(unreadableOwner, unreadableOwner); err != nil {
		return err
	}
	return f.Chmod(unreadableMode)
}

// sealedExe is the other way: a copy in memory that is sealed against every change.
func sealedExe() (*os.File, error) {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open program: %w", err)
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("berth-oci", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("copy program: %w", err)
	}
	f := os.NewFile(uintptr(fd), "exe")
	if _, err = io.Copy(f, from); err == nil {
		hide(f) // without the right to, it is readable, as are the programs of a runtime without rights
		seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("copy program: %w", err)
	}
	return f, nil
}
