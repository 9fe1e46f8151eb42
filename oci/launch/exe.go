package launch

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// openExe returns this very program as a descriptor whose file can't be opened for writing through /proc/PID/exe, by
// nobody, root in a container included (CVE-2019-5736): on a mount that is read-only and attached nowhere, so that
// there is nothing to remount.
func openExe() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Attr_clr: unix.MOUNT_ATTR_NOEXEC})
		if err == nil {
			return os.NewFile(uintptr(fd), "exe"), nil
		}
		unix.Close(fd)
	}
	return sealedExe()
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
		seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("copy program: %w", err)
	}
	return f, nil
}
