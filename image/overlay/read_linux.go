package overlay

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrTooLarge is the error of ReadFile for a file over its limit.
var ErrTooLarge = errors.New("file is larger than the limit")

// ReadFile reads a regular file of the merged stack, links resolved inside it. A missing file is fs.ErrNotExist, another
// kind of file fs.ErrInvalid, more than max bytes ErrTooLarge.
func ReadFile(layers []string, name string, max int64) ([]byte, error) {
	if len(layers) == 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	root, err := open(layers)
	if err == nil {
		defer unix.Close(root)
		return read(func() (int, error) { return openIn(root, name) }, name, max)
	}
	if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	return read(func() (int, error) { return walk(layers, name) }, name, max)
}

const readFlags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC

// openIn opens a name below root without touching a device or FIFO: O_PATH first, and only a regular file in earnest.
func openIn(root int, name string) (int, error) {
	fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
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
	// Between the two nothing can change: the layers are ours and nobody writes to them.
	return unix.Openat2(root, name, &unix.OpenHow{Flags: readFlags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
}

func read(openFile func() (int, error), name string, max int64) ([]byte, error) {
	fd, err := openFile()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > max {
		return nil, fmt.Errorf("%s: %d bytes, at most %d: %w", name, st.Size(), max, ErrTooLarge)
	}
	return io.ReadAll(io.LimitReader(f, max))
}

// open gives a descriptor of the root of the merged stack. One layer is its own merged tree: the kernel refuses an overlay
// of one, and nothing lies below for whiteouts to hide.
func open(layers []string) (int, error) {
	if len(layers) == 1 {
		return unix.Open(layers[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	return Mount(layers)
}

// Mount makes a detached read-only overlay of two or more layers, top first, and returns the descriptor of its root; closing it is
// the unmount. Layers are given one by one ("lowerdir+", Linux 6.5); older kernels and missing privilege are
// errors.ErrUnsupported or fs.ErrPermission.
func Mount(layers []string) (int, error) {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen overlay: %w", unsupported(err))
	}
	defer unix.Close(fsfd)
	for _, l := range layers {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", l); err != nil {
			return -1, fmt.Errorf("overlay layer %s: %w", l, unsupported(err))
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		// Before 6.5 an unknown parameter is taken, and refused here.
		return -1, fmt.Errorf("overlay of %d layers: %w", len(layers), unsupported(err))
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsmount overlay: %w", err)
	}
	return fd, nil
}

// unsupported gives its class to what older kernels answer. EINVAL is what an unknown parameter gets.
func unsupported(err error) error {
	switch err {
	case unix.EINVAL, unix.ENOSYS, unix.ENODEV:
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}
