package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Build compiles a package, without cgo: the program runs where there are no libraries.
func Build(out, pkg string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, said)
	}
	return nil
}

// Make makes a bundle whose root file system holds a program as /probe, two accounts and empty directories.
func Make(t *testing.T, dir, probe string) {
	t.Helper()
	for _, d := range []string{"", "/rootfs", "/rootfs/etc", "/rootfs/proc", "/rootfs/sys", "/rootfs/dev", "/rootfs/tmp"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(probe, dir+"/rootfs/probe"); err != nil {
		t.Fatal(err)
	}
	Write(t, dir, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
}

// Write writes a file of the root file system.
func Write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(dir+"/rootfs/"+name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// JSON writes a document beside the root file system and returns its name.
func JSON(t *testing.T, dir, name string, doc any) string {
	t.Helper()
	text, err := json.Marshal(doc)
	if err == nil {
		err = os.WriteFile(dir+"/"+name, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir + "/" + name
}

// Capabilities are those that container engines give by default.
func Capabilities() []string {
	return []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
}

// Spec is an ordinary container's: new namespaces but a user namespace, the usual mounts, masked and read-only paths.
func Spec(args ...string) *specs.Spec {
	caps := Capabilities()
	return &specs.Spec{
		Version: "1.0.2", Hostname: "box", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin:/"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{Mount("/proc", "proc", "nosuid", "noexec", "nodev"),
			Mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			Mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			Mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			Mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"), Mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			Mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// Mount is one of a kernel file system.
func Mount(dest, kind string, options ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: kind, Source: kind, Options: options}
}

// groups are the directories of a cgroup in all hierarchies.
func groups(path string) []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if unified := "/sys/fs/cgroup" + path; unix.Access(unified, unix.F_OK) == nil {
		dirs = append(dirs, unified)
	}
	return dirs
}

// RemoveGroups removes a cgroup that has neither processes nor children, in all hierarchies.
func RemoveGroups(path string) {
	for _, d := range groups(path) {
		unix.Rmdir(d)
	}
}

// Left tells what there still is of containers that have been deleted: state below the runtime's root, and a cgroup.
// What begins with a dot is the runtime's and no container's.
func Left(root, cgroup string) []string {
	var left []string
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if e.Name()[0] != '.' {
			left = append(left, "state "+e.Name())
		}
	}
	return append(left, groups(cgroup)...)
}
