package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// detached makes a mount that is nowhere in the tree and goes away with its descriptor.
func detached(fstype string, configure func(fs int) error) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	if configure != nil {
		if err := configure(fs); err != nil {
			return nil, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fsconfig %s: %w", fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fsmount %s: %w", fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

func tryMountAPI() (string, error) {
	m, err := detached("tmpfs", nil)
	if err != nil {
		return "", err
	}
	return "", m.Close()
}

// withOverlay makes a detached overlay of two empty layers, which lower hands to the file system one by one.
func withOverlay(lower func(fs int, dir string) error) error {
	base, err := os.MkdirTemp("", "berth-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(base)
	for _, d := range []string{"a", "b", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o700); err != nil {
			return err
		}
	}
	m, err := detached("overlay", func(fs int) error {
		return errors.Join(
			lower(fs, filepath.Join(base, "a")), lower(fs, filepath.Join(base, "b")),
			unix.FsconfigSetString(fs, "upperdir", filepath.Join(base, "upper")),
			unix.FsconfigSetString(fs, "workdir", filepath.Join(base, "work")),
			unix.FsconfigSetFlag(fs, "volatile"))
	})
	if err != nil {
		return err
	}
	return m.Close()
}

// tryOverlay names a single layer, as every kernel takes it; of two that are named this way the last one counts.
func tryOverlay() (string, error) {
	return "", withOverlay(func(fs int, dir string) error { return unix.FsconfigSetString(fs, "lowerdir", dir) })
}

func tryOverlayLayers() (string, error) {
	return "", withOverlay(func(fs int, dir string) error { return unix.FsconfigSetString(fs, "lowerdir+", dir) })
}

func tryOverlayFD() (string, error) {
	return "", withOverlay(func(fs int, dir string) error {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.FsconfigSetFd(fs, "lowerdir+", fd)
	})
}

// cloned makes a detached copy of a detached mount.
func cloned(m *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(m.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	return os.NewFile(uintptr(fd), "clone"), nil
}

func tryDetachedClone() (string, error) {
	m, err := detached("tmpfs", nil)
	if err != nil {
		return "", err
	}
	defer m.Close()
	c, err := cloned(m)
	if err != nil {
		return "", err
	}
	return "", c.Close()
}

func tryRecursive() (string, error) {
	m, err := detached("tmpfs", nil)
	if err != nil {
		return "", err
	}
	defer m.Close()
	return "", unix.MountSetattr(int(m.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// userNS starts a process in a user namespace of its own and returns the namespace; end lets the process go.
func userNS() (ns *os.File, end func(), err error) {
	cmd := exec.Command("/proc/self/exe", holdCommand)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start a process in one: %w", err)
	}
	ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	end = func() {
		ns.Close() // of nil is harmless
		in.Close()
		cmd.Wait()
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return ns, end, nil
}

func tryUserNS() (string, error) {
	_, end, err := userNS()
	if err != nil {
		return "", err
	}
	end()
	return "", nil
}

func tryIDMap() (string, error) {
	ns, end, err := userNS()
	if err != nil {
		return "", err
	}
	defer end()
	m, err := detached("tmpfs", nil)
	if err != nil {
		return "", err
	}
	defer m.Close()
	return "", unix.MountSetattr(int(m.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
}
