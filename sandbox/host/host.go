// Package host finds out what of this machine decides what a container gets: cgroup mode, capabilities, devices,
// huge pages, security modules, and what the kernel offers for mounts.
//
// Facts are read once, by trying; no behaviour hangs on a version string. Nothing here changes the machine, and nothing
// of pods may live here.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/compile"
)

// Facts is what of this host decides what a container gets. It is read once, by trying; no behaviour hangs on a
// version string.
type Facts struct {
	Compile       compile.Host
	MountSetattr  bool // recursive read-only mounts (Linux 5.12)
	IDMapOverlay  bool // user namespaces with idmapped root file systems (Linux 5.19)
	DetachedClone bool // mounts that are attached nowhere can be cloned (Linux 6.15)
}

// Read finds out everything. systemd says by whom cgroups are made.
func Read(systemd bool) (Facts, error) {
	var h Facts
	name, err := os.Hostname()
	if err != nil {
		return h, err
	}
	h.Compile = compile.Host{
		CgroupV2:      cgroups.Mode() == cgroups.Unified,
		SystemdCgroup: systemd,
		AppArmor:      enabled("/sys/module/apparmor/parameters/enabled"),
		SELinux:       exists("/sys/fs/selinux/enforce"),
		Caps:          grantableCaps(),
		Hugetlb:       hugepageSizes(),
		Swap:          memorySwap(),
		Hostname:      name,
	}
	if h.Compile.Devices, err = DevicesUnder("/dev", "/dev"); err != nil {
		return h, fmt.Errorf("list host devices: %w", err)
	}
	h.Compile.OOMScoreAdj, h.Compile.CanLowerOOM = oomScore()
	h.MountSetattr = unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) != unix.ENOSYS
	h.IDMapOverlay = h.MountSetattr && exists("/proc/self/ns/user")
	h.DetachedClone = detachedClone()
	return h, nil
}

// detachedClone clones a tmpfs that is mounted nowhere, to see whether that is refused.
func detachedClone() bool {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	if unix.FsconfigCreate(fs) != nil {
		return false
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(m)
	c, err := unix.OpenTree(m, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return false
	}
	unix.Close(c)
	return true
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func enabled(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && bytes.HasPrefix(b, []byte("Y"))
}

// memorySwap reports whether the memory controller accounts swap: the file is missing without CONFIG_SWAP or with
// swapaccount=0.
func memorySwap() bool {
	for _, f := range []string{"/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "/sys/fs/cgroup/init.scope/memory.swap.max", "/sys/fs/cgroup/system.slice/memory.swap.max"} {
		if exists(f) {
			return true
		}
	}
	return false
}

// grantableCaps names the capabilities that this kernel knows and that are in our bounding set (capabilities(7)): no
// child of ours can have others, privileged or not.
func grantableCaps() []string {
	var out []string
	for i, name := range compile.KnownCaps() {
		// EINVAL for a capability the kernel does not know.
		if in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && in == 1 {
			out = append(out, name)
		}
	}
	return out
}

// hugepageSizes lists the sizes the hugetlb controller limits, in the form "2MB".
func hugepageSizes() []string {
	if !exists("/sys/fs/cgroup/hugetlb") && cgroups.Mode() != cgroups.Unified {
		return nil
	}
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		switch {
		case kb >= 1<<20:
			out = append(out, fmt.Sprintf("%dGB", kb>>20))
		case kb >= 1<<10:
			out = append(out, fmt.Sprintf("%dMB", kb>>10))
		default:
			out = append(out, fmt.Sprintf("%dKB", kb))
		}
	}
	return out
}

// oomScore returns the daemon's own oom_score_adj and whether it may give its children a lower one, which takes
// CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)).
func oomScore() (int, bool) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, false
	}
	own, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return own, false
	}
	return own, data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// skipDev are the parts of /dev that a container has of its own.
func skipDev(name string) bool {
	switch name {
	case "pts", "shm", "mqueue", "console", "fd", "stdin", "stdout", "stderr", "ptmx", ".lxc", ".udev", "lxd-fuse":
		return true
	}
	return false
}

// DevicesUnder lists the device nodes below dir, as they shall appear below target. Links are not followed: what they
// name is listed at its own place.
func DevicesUnder(dir, target string) ([]compile.Device, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []compile.Device
	for _, e := range entries {
		if dir == "/dev" && skipDev(e.Name()) {
			continue
		}
		host, inside := filepath.Join(dir, e.Name()), filepath.Join(target, e.Name())
		if e.IsDir() {
			sub, err := DevicesUnder(host, inside)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return nil, err
			}
			out = append(out, sub...)
			continue
		}
		if d, ok := DeviceAt(host, inside); ok {
			out = append(out, d)
		}
	}
	return out, nil
}

// DeviceAt describes the device node at host; false when it is none.
func DeviceAt(host, inside string) (compile.Device, bool) {
	var st unix.Stat_t
	if unix.Lstat(host, &st) != nil {
		return compile.Device{}, false
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return compile.Device{}, false
	}
	return compile.Device{
		Path: inside, Type: kind,
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Mode: os.FileMode(st.Mode & 0o777), UID: st.Uid, GID: st.Gid,
	}, true
}
