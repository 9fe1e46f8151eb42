package conform_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// config-linux.md, "Namespaces": those listed are new, all others are the runtime's.
func TestNewNamespaces(t *testing.T) {
	kinds := map[specs.LinuxNamespaceType]string{"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "mount": "mnt", "cgroup": "cgroup"}
	for left := range kinds {
		if left == "mount" {
			continue
		}
		t.Run("without "+string(left), func(t *testing.T) {
			b := newBox(t, "report")
			b.spec.Linux.Namespaces = nil
			for kind := range kinds {
				if kind != left {
					b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
				}
			}
			if left == "uts" {
				b.spec.Hostname = ""
			}
			if left == "network" { // sysfs can be mounted by the owner of the network namespace only; bind what is there
				b.spec.Mounts[5] = bind("/sys", "/sys", "ro")
			}
			s := b.sees()
			for kind, name := range kinds {
				own, _ := os.Readlink("/proc/self/ns/" + name)
				equal(t, string(kind)+" is the test's", s.Namespaces[name] == own, kind == left)
			}
		})
	}
}

// hold starts a process in new namespaces and returns its pid.
func hold(t *testing.T, flags uintptr) int {
	t.Helper()
	cmd := exec.Command(bin+"/probe", "wait")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: flags}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		// ends when all processes of its PID namespace are reaped, the container's included, which is later than this
		go cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestJoinNamespaces(t *testing.T) {
	for kind, c := range map[specs.LinuxNamespaceType]struct {
		name string
		flag uintptr
	}{"pid": {"pid", unix.CLONE_NEWPID}, "network": {"net", unix.CLONE_NEWNET}, "ipc": {"ipc", unix.CLONE_NEWIPC}, "uts": {"uts", unix.CLONE_NEWUTS}} {
		t.Run(string(kind), func(t *testing.T) {
			b := newBox(t, "wait")
			pid := hold(t, c.flag)
			path := "/proc/" + itoa(pid) + "/ns/" + c.name
			b.without(kind)
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
			if kind == "uts" {
				b.spec.Hostname = ""
			}
			b.started()
			want, _ := os.Readlink(path)
			got, _ := os.Readlink("/proc/" + itoa(b.pid()) + "/ns/" + c.name)
			equal(t, "namespace", got, want)
			equal(t, "namespace of an exec", b.exec().Namespaces[c.name], want)
		})
	}
}

// "If the path does not refer to a namespace of this type, the runtime MUST generate an error."
func TestJoinWrongNamespace(t *testing.T) {
	for name, n := range map[string]specs.LinuxNamespace{"wrong type": {Type: "uts", Path: "/proc/self/ns/ipc"}, "no namespace": {Type: "uts", Path: "/etc/passwd"},
		"missing": {Type: "uts", Path: "/proc/self/ns/none"}, "unknown type": {Type: "none"}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "wait")
			b.spec.Hostname = ""
			b.without("uts")
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, n)
			if r := b.create(); r.code == 0 {
				t.Error("taken")
			}
			equal(t, "status", b.status(), "")
		})
	}
}

func TestNamespaceTwice(t *testing.T) {
	b := newBox(t, "wait")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"})
	if r := b.create(); r.code == 0 {
		t.Error("taken")
	}
}

func (b *box) userNamespace() {
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
}

func TestUserNamespace(t *testing.T) {
	b := newBox(t)
	b.userNamespace()
	b.spec.Process.User = specs.User{UID: 3, GID: 4, AdditionalGids: []uint32{5}}
	os.Chown(b.bundle+"/rootfs/tmp", 100003, 200004)
	b.tries(map[string]string{"write:/tmp/made": "ok", "read:/proc/self/uid_map": "         0     100000      65536\n",
		"read:/proc/self/gid_map": "         0     200000      65536\n", "stat:/probe": "100755 65534:65534", "open:/dev/null": "ok", "open:/dev/full": "ok",
		"write:/inside": "EACCES"})
	var st unix.Stat_t
	if err := unix.Stat(b.bundle+"/rootfs/tmp/made", &st); err != nil || st.Uid != 100003 || st.Gid != 200004 {
		t.Errorf("what the container wrote belongs to %d:%d, %v", st.Uid, st.Gid, err)
	}
}

func TestUserNamespaceExec(t *testing.T) {
	b := newBox(t, "wait")
	b.userNamespace()
	b.started()
	s := b.exec("--user", "7:8")
	equal(t, "uid", s.UID, 7)
	equal(t, "gid", s.GID, 8)
	want, _ := os.Readlink("/proc/" + itoa(b.pid()) + "/ns/user")
	equal(t, "namespace", s.Namespaces["user"], want)
	var st unix.Stat_t
	unix.Stat("/proc/"+itoa(b.pid()), &st)
	equal(t, "owner outside", st.Uid, 100000)
}

func TestLoopback(t *testing.T) {
	b := newBox(t, "report")
	s := b.sees()
	equal(t, "interfaces", len(s.Interfaces) >= 1, true)
	equal(t, "lo is up", s.Interfaces["lo"], true)
}

// With a cgroup namespace the container sees its own cgroup as the root.
func TestCgroupNamespace(t *testing.T) {
	for _, own := range []bool{true, false} {
		t.Run(map[bool]string{true: "own", false: "host"}[own], func(t *testing.T) {
			b := newBox(t, "report")
			if own {
				b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "cgroup"})
			}
			s := b.sees()
			equal(t, "name is seen", strings.Contains(s.Cgroup, cgroups), !own)
		})
	}
}
