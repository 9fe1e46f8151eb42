package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cgroups is where the containers live.
func cgroups() string { return fmt.Sprintf("/berth-bench-%d", os.Getpid()) }

func removeCgroups() {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroups())
	for _, d := range append(dirs, "/sys/fs/cgroup"+cgroups()) {
		unix.Rmdir(d)
	}
}

// makeBundle writes a bundle that runs one of busybox's applets.
func makeBundle(dir, busybox string, args ...string) error {
	for _, d := range [...]string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(dir+"/rootfs/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(busybox, dir+"/rootfs/bin/busybox"); err != nil {
		return err
	}
	for _, applet := range [...]string{"true", "sleep"} {
		if err := os.Link(dir+"/rootfs/bin/busybox", dir+"/rootfs/bin/"+applet); err != nil {
			return err
		}
	}
	if err := os.WriteFile(dir+"/rootfs/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644); err != nil {
		return err
	}
	for _, f := range [...]string{"hosts", "resolv.conf"} {
		if err := os.WriteFile(dir+"/"+f, []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
			return err
		}
	}
	spec := config(dir, args)
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return err
	}
	spec.Linux.Seccomp = profile
	spec.Linux.CgroupsPath = cgroups() + "/" + filepath.Base(filepath.Dir(dir)) + "-" + args[0]
	text, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(dir+"/config.json", text, 0o644)
}

// config is what a pod's container has: all namespaces, 14 capabilities, the usual mounts, limits and masks.
func config(dir string, args []string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	mount := func(dest, kind, source string, o ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: kind, Source: source, Options: o}
	}
	memory, shares, quota, period, pids := int64(512<<20), uint64(512), int64(100000), uint64(100000), int64(1024)
	return &specs.Spec{
		Version: "1.0.2", Hostname: "bench", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
			mount("/etc/hosts", "bind", dir+"/hosts", "rbind", "rprivate", "ro"),
			mount("/etc/resolv.conf", "bind", dir+"/resolv.conf", "rbind", "rprivate", "ro"),
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Memory:  &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids},
				CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period},
			},
			MaskedPaths: []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
