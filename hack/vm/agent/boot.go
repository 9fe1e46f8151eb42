package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const newroot = "/newroot"

// boot replaces itself by the init of the disk.
func boot() error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.kind, m.dir, m.kind, 0); err != nil {
			return err
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	conf, err := words()
	if err != nil {
		return err
	}
	if err := mountDisk("/dev/vda", newroot, "ext4", unix.MS_NOATIME); err != nil {
		return err
	}
	// vm.disks=/payload,/other: where vdb, vdc, ... go; they are erofs images.
	for i, dir := range strings.FieldsFunc(conf["disks"], func(r rune) bool { return r == ',' }) {
		if err := mountDisk("/dev/vd"+string(rune('b'+i)), newroot+dir, "erofs", unix.MS_RDONLY); err != nil {
			return err
		}
	}
	if err := setup(newroot); err != nil {
		return err
	}
	if err := keepAgent(); err != nil {
		return err
	}
	return switchRoot("/sbin/init")
}

func mount(source, dir, kind string, flags uintptr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, dir, kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, dir, err)
	}
	return nil
}

// mountDisk waits for the device: the drivers look for their disks in the background.
func mountDisk(dev, dir, kind string, flags uintptr) error {
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := os.Stat(dev); err == nil {
			return mount(dev, dir, kind, flags)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("disk %s: %w", dev, os.ErrDeadlineExceeded)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func loadModules() error {
	list, err := os.ReadFile("/modules.list")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// keepAgent copies this program to where vm-agent.service starts it from.
func keepAgent() error {
	dir := newroot + "/run"
	if err := mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV); err != nil {
		return err
	}
	if err := os.Mkdir(dir+"/vm", 0o755); err != nil {
		return err
	}
	src, err := os.Open("/init")
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(dir+"/vm/agent", os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

// switchRoot does what switch_root(8) does. The initramfs' files are removed first: it is memory that can't be
// unmounted.
func switchRoot(init string) error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(dir, newroot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	for _, name := range []string{"/modules", "/modules.list", "/init"} {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := os.Chdir(newroot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", init, unix.Exec(init, []string{init}, []string{"HOME=/root", "TERM=linux"}))
}
