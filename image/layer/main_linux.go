package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// UnpackMain is the body of the unpacking child: `berth unpack DIR BYTES ENTRIES`, with the plain tar stream on standard
// input, started in a mount namespace of its own. It fills DIR, writes the Result to standard output and returns the
// exit status. The command is internal; Unpack starts it.
func UnpackMain(args []string) int {
	res, err := unpackMain(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		var e unix.Errno
		if errors.As(err, &e) && told(e) {
			return int(e)
		}
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
		return 1
	}
	return 0
}

// told says which errors the child passes on as its exit status: those about the machine. All others are about the image.
func told(e unix.Errno) bool {
	switch e {
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG, unix.EIO, unix.EROFS:
		return true
	}
	return false
}

func unpackMain(args []string) (Result, error) {
	if len(args) != 3 {
		return Result{}, fmt.Errorf("want DIR BYTES ENTRIES, have %q: %w", args, fs.ErrInvalid)
	}
	bytes, err1 := strconv.ParseInt(args[1], 10, 64)
	entries, err2 := strconv.ParseInt(args[2], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return Result{}, err
	}
	root, err := enterJail(args[0])
	if err != nil {
		return Result{}, fmt.Errorf("jail: %w", err)
	}
	defer unix.Close(root)
	return Apply(root, os.Stdin, Limits{Bytes: bytes, Entries: entries})
}

// enterJail makes dir the root of the process and takes away all it does not need. The caller runs in a mount namespace
// of its own. It returns an O_PATH descriptor of the root.
func enterJail(dir string) (int, error) {
	// Rather this process than a pod, and rather a pod than the daemon, whose score it has inherited. Raising needs no privilege (proc(5)).
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	if err := becomeRoot(dir); err != nil {
		return -1, err
	}
	unix.Umask(0)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return -1, fmt.Errorf("limit of core size: %w", err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := dropCapabilities(); err != nil {
		return -1, fmt.Errorf("drop capabilities: %w", err)
	}
	if err := filterSyscalls(); err != nil {
		return -1, fmt.Errorf("seccomp: %w", err)
	}
	return root, nil
}

// becomeRoot makes a view of dir without devices, set-user-ID and execution the root of the mount namespace, and drops
// every other mount. A device node can be made there, and not opened.
func becomeRoot(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		return fmt.Errorf("remount %s: %w", dir, err)
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	switch err := unix.PivotRoot(".", "."); err {
	case nil:
		// The old root lies on top of the new one (pivot_root(2), NOTES).
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount old root: %w", err)
		}
	case unix.EINVAL: // the root is an initramfs, which can't be pivoted: move over it
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
	default:
		return fmt.Errorf("pivot_root %s: %w", dir, err)
	}
	return unix.Chdir("/")
}
