package launch_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func clockNow(id int32) int64 {
	var ts unix.Timespec
	unix.ClockGettime(id, &ts)
	return ts.Sec
}

// The clocks of a new time namespace are set before anybody is in it; exec sees the same ones.
func TestTimeOffsets(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 864000, Nanosecs: 5}, "boottime": {Secs: 8640000}}
	b.create()
	b.must("start", b.id)
	seen := decode(t, b.must("exec", b.id, "/probe", "clocks").out)
	for name, c := range map[string]struct {
		id  int32
		off int64
	}{"monotonic": {unix.CLOCK_MONOTONIC, 864000}, "boottime": {unix.CLOCK_BOOTTIME, 8640000}} {
		got, want := int64(seen[name].(float64)), clockNow(c.id)+c.off
		if got < want-600 || got > want {
			t.Errorf("%s: %d, want about %d", name, got, want)
		}
	}
}

// A time namespace by path, and a user namespace by path with the namespaces it owns.
func TestJoinedTimeAndUser(t *testing.T) {
	t.Parallel()
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 300000, Size: 65536}}
	first := newBox(t, "sleep")
	first.spec.Linux.UIDMappings, first.spec.Linux.GIDMappings = maps, maps
	first.spec.Linux.Namespaces = append(first.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"}, specs.LinuxNamespace{Type: "time"})
	first.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 864000}}
	first.create()
	pid, _ := os.ReadFile(first.bundle + "/pid")
	second := newBox(t, "sleep")
	second.id += "-second"
	second.spec.Linux.CgroupsPath += "-second"
	second.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}}
	for kind, name := range map[specs.LinuxNamespaceType]string{"user": "user", "time": "time", "pid": "pid", "network": "net", "ipc": "ipc",
		"uts": "uts", "cgroup": "cgroup"} {
		second.spec.Linux.Namespaces = append(second.spec.Linux.Namespaces,
			specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%s/ns/%s", pid, name)})
	}
	second.create()
	other, _ := os.ReadFile(second.bundle + "/pid")
	for _, name := range []string{"user", "time", "pid", "net", "ipc", "uts", "cgroup"} {
		want, _ := os.Readlink("/proc/" + string(pid) + "/ns/" + name)
		if got, _ := os.Readlink("/proc/" + string(other) + "/ns/" + name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	second.must("start", second.id)
	if seen := decode(t, second.must("exec", second.id, "/probe", "report").out); seen["UID"].(float64) != 0 {
		t.Errorf("uid %v", seen["UID"])
	}
}

// Without a mount namespace, and with one by path, the container is in that namespace, sees its own tree, and leaves
// nothing behind in the namespace.
func TestMountNamespaceByPath(t *testing.T) {
	t.Parallel()
	needRoot(t)
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	for name, path := range map[string]string{"absent": "/proc/self/ns/mnt", "path": fmt.Sprintf("/proc/%d/ns/mnt", holder.Process.Pid)} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "sleep")
			b.write("marker", "inside")
			b.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "cgroup"}}
			if name == "path" {
				b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "mount", Path: path})
			}
			before, _ := os.ReadFile(strings.Replace(path, "ns/mnt", "mountinfo", 1))
			b.create()
			pid, _ := os.ReadFile(b.bundle + "/pid")
			want, _ := os.Readlink(path)
			if got, _ := os.Readlink("/proc/" + string(pid) + "/ns/mnt"); got != want {
				t.Errorf("mount namespace %s, want %s", got, want)
			}
			b.must("start", b.id)
			for _, file := range []string{"/marker", "/proc/self/status", "/dev/shm/../../sys/kernel/../../marker"} {
				if r := b.oci("exec", b.id, "/probe", "cat", file); r.code != 0 || r.out == "" {
					t.Errorf("%s: %d %q %q", file, r.code, r.out, r.err)
				}
			}
			if r := b.oci("exec", b.id, "/probe", "cat", "/../../../../../../../../etc/debian_version"); r.code == 0 {
				t.Errorf("the host's file is there: %q", r.out)
			}
			if seen := decode(t, b.must("exec", b.id, "/probe", "report").out); seen["Devices"].(map[string]any)["null"] != "20666 1:3" {
				t.Errorf("/dev: %v", seen["Devices"])
			}
			if after, _ := os.ReadFile(strings.Replace(path, "ns/mnt", "mountinfo", 1)); name == "path" && string(after) != string(before) {
				t.Errorf("mounts in the namespace:\n%s\nbefore:\n%s", after, before)
			}
			if text, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(text), b.bundle) {
				t.Error("the container's mounts are in the host's table")
			}
		})
	}
}

// A field that would change a namespace is refused when the one joined is the runtime's own.
func TestForeignNamespaces(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind, file string
		change     func(*specs.Spec)
		want       string
	}{
		"net":  {"network", "net", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"} }, `linux.sysctl["net.ipv4.ip_forward"]`},
		"ipc":  {"ipc", "ipc", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.msgmax": "9000"} }, `linux.sysctl["kernel.msgmax"]`},
		"uts":  {"uts", "uts", func(s *specs.Spec) { s.Hostname = "changed" }, "hostname"},
		"move": {"network", "net", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"lo": {}} }, "linux.netDevices"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "sleep")
			b.spec.Hostname = ""
			for i, ns := range b.spec.Linux.Namespaces {
				if string(ns.Type) == c.kind {
					b.spec.Linux.Namespaces[i].Path = "/proc/self/ns/" + c.file
				}
			}
			c.change(b.spec)
			b.config()
			if r := b.oci("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, c.want) || !strings.Contains(r.err, "the runtime's own") {
				t.Errorf("%d %q, want %q", r.code, r.err, c.want)
			}
		})
	}
}

// ip runs ip(8) in a network namespace of the test's own, held by a process.
func ip(t *testing.T, pid int, args ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(pid), "-n", "ip"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

// A device moves with its permanent addresses of global scope, its MTU and its MAC address, is renamed, and is up.
// The runtime's namespace is one of the test's own: veth pairs need no hardware and no modules.
func TestNetDevices(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip(8), Debian package iproute2")
	}
	host := exec.Command("sleep", "60")
	host.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Process.Kill(); host.Wait() })
	pid := host.Process.Pid
	for i, pair := range [][2]string{{"one", "peer1"}, {"two", "peer2"}, {"three", "peer3"}} {
		ip(t, pid, "link", "add", pair[0], "mtu", "1400", "address", fmt.Sprintf("02:00:00:00:00:%02x", i+1), "type", "veth", "peer", "name", pair[1])
		ip(t, pid, "addr", "add", fmt.Sprintf("10.9.%d.2/24", i), "brd", "+", "label", pair[0]+":x", "dev", pair[0])
		ip(t, pid, "addr", "add", fmt.Sprintf("fd00:%d::2/64", i+1), "dev", pair[0], "nodad")
		ip(t, pid, "addr", "add", "169.254.7.7/16", "scope", "link", "dev", pair[0])
		ip(t, pid, "addr", "add", fmt.Sprintf("10.8.%d.2/24", i), "dev", pair[0], "valid_lft", "3600", "preferred_lft", "3600")
		ip(t, pid, "link", "set", pair[0], "up")
	}
	b := newBox(t, "sleep")
	in := func(args ...string) result { return b.within(pid, args...) }
	b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"one": {}, "two": {Name: "renamed"}, "three": {Name: "eth%d"}}
	b.config()
	if r := in("create", "--bundle", b.bundle, "--pid-file", b.bundle+"/pid", b.id); r.code != 0 {
		t.Fatalf("%d %q", r.code, r.err)
	}
	text, _ := os.ReadFile(b.bundle + "/pid")
	ctr := 0
	fmt.Sscan(string(text), &ctr)
	for i, name := range []string{"one", "renamed", "eth0"} {
		got := ip(t, ctr, "addr", "show", "dev", name)
		for _, want := range []string{fmt.Sprintf("inet 10.9.%d.2/24 brd 10.9.%d.255 scope global %s:x", i, i, name), fmt.Sprintf("inet6 fd00:%d::2/64", i+1),
			"mtu 1400", fmt.Sprintf("02:00:00:00:00:%02x", i+1), ",UP"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s lacks %q:\n%s", name, want, got)
			}
		}
		for _, not := range []string{"169.254.7.7", "10.8."} {
			if strings.Contains(got, not) {
				t.Errorf("%s has %q:\n%s", name, not, got)
			}
		}
	}
	if left := ip(t, pid, "link", "show"); strings.Contains(left, " one@") || strings.Contains(left, " two@") || !strings.Contains(left, "peer1@") {
		t.Errorf("left behind:\n%s", left)
	}
}

// within runs the runtime in the network namespace of a process.
func (b *box) within(pid int, args ...string) result {
	b.t.Helper()
	return b.command(nil, "nsenter", append([]string{"-t", fmt.Sprint(pid), "-n", runtimeBin(), "--root", b.root}, args...)...)
}

// A device that is not there, and one whose new name is taken, are errors that leave the device where it was.
func TestNetDevicesRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	host := exec.Command("sleep", "60")
	host.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Process.Kill(); host.Wait() })
	pid := host.Process.Pid
	ip(t, pid, "link", "add", "one", "type", "veth", "peer", "name", "peer")
	for want, devices := range map[string]map[string]specs.LinuxNetDevice{
		"linux.netDevices.none":                {"none": {}},
		"linux.netDevices.one: move one as lo": {"one": {Name: "lo"}},
	} {
		b := newBox(t, "sleep")
		b.spec.Linux.NetDevices = devices
		b.config()
		if r := b.within(pid, "create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%d %q, want %q", r.code, r.err, want)
		}
		if !strings.Contains(ip(t, pid, "link", "show"), "one@peer") {
			t.Error("the device is gone")
		}
	}
}
