package launch_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// belongs gives all of a box to a user.
func (b *box) belongs(uid int) {
	b.t.Helper()
	os.Mkdir(b.root, 0o700)
	filepath.Walk(filepath.Dir(b.bundle), func(name string, _ os.FileInfo, err error) error {
		if name != b.bundle+"/rootfs/probe" { // a link to the one of all tests
			os.Lchown(name, uid, uid)
		}
		return err
	})
}

// unmapped takes out of the config what needs ids that a single map has not got, and the mode of the root.
func (b *box) unmapped() {
	for i := range b.spec.Mounts {
		b.spec.Mounts[i].Options = slices.DeleteFunc(b.spec.Mounts[i].Options, func(o string) bool { return o == "gid=5" })
	}
}

// life takes a container through all that a user may do with it.
func life(t *testing.T, b *box, as func(args ...string) result) {
	t.Helper()
	must := func(args ...string) result {
		t.Helper()
		r := as(args...)
		if r.code != 0 {
			t.Fatalf("%v: %d %q", args, r.code, r.err)
		}
		return r
	}
	t.Cleanup(func() { as("delete", "--force", b.id) })
	must("create", "--bundle", b.bundle, "--pid-file", b.bundle+"/pid", b.id)
	if out := must("state", b.id).out; !strings.Contains(out, `"created"`) {
		t.Errorf("state: %s", out)
	}
	must("start", b.id)
	seen := decode(t, must("exec", b.id, "/probe", "report").out)
	if fmt.Sprintf("%v %v", seen["UID"], seen["Hostname"]) != "0 box" || seen["Devices"].(map[string]any)["null"] == nil {
		t.Errorf("uid, hostname: %v %v, devices %v", seen["UID"], seen["Hostname"], seen["Devices"])
	}
	if r := as("exec", b.id, "/probe", "exit", "7"); r.code != 7 {
		t.Errorf("exit code %d %q, want 7", r.code, r.err)
	}
	if out := must("ps", "--format", "json", b.id).out; !strings.Contains(out, fmt.Sprint(readPid(t, b.bundle+"/pid"))) {
		t.Errorf("ps: %s", out)
	}
	must("kill", b.id, "KILL")
	if r := as("delete", "--force", b.id); r.code != 0 {
		t.Errorf("delete: %d %q", r.code, r.err)
	}
	if left, _ := os.ReadDir(b.root); slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name()[0] != '.' }) {
		t.Errorf("left: %v", left)
	}
}

// An unprivileged user with the one id that the kernel lets everybody map, and with subordinate ids by newuidmap(1).
func TestRootless(t *testing.T) {
	t.Parallel()
	const uid = 65534 // nobody: has a name, which newuidmap asks for
	for name, maps := range map[string][]specs.LinuxIDMapping{"single": {{ContainerID: 0, HostID: uid, Size: 1}},
		"subordinate": {{ContainerID: 0, HostID: uid, Size: 1}, {ContainerID: 1, HostID: 700000, Size: 65535}}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "sleep")
			prefix := []string{}
			if name == "single" {
				b.unmapped()
			} else {
				_, err := exec.LookPath("newuidmap")
				for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
					if err == nil {
						_, err = os.Stat(file)
					}
				}
				if err != nil {
					t.Skip("needs newuidmap(1), Debian package uidmap: ", err)
				}
				b.spec.Process.User = specs.User{}
				sub := t.TempDir() + "/sub"
				os.WriteFile(sub, []byte("nobody:700000:65536\n"), 0o644)
				prefix = []string{"unshare", "--mount", "sh", "-c", "mount --bind " + sub + " /etc/subuid && mount --bind " + sub +
					" /etc/subgid && exec \"$@\"", "sh"}
			}
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = maps, maps
			b.config()
			b.belongs(uid)
			as := func(args ...string) result {
				argv := append(slices.Clone(prefix), "setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups",
					runtimeBin(), "--root", b.root)
				argv = append(argv, args...)
				return b.command(nil, argv[0], argv[1:]...)
			}
			life(t, b, as)
			b.spec.Process.Args = []string{"/probe", "report"}
			if name == "subordinate" {
				b.spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7}}
			}
			b.config()
			r := as("run", "--bundle", b.bundle, b.id)
			if r.code != 0 {
				t.Fatalf("%d %q", r.code, r.err)
			}
			if seen := decode(t, r.out); name == "subordinate" && fmt.Sprintf("%v %v %v", seen["UID"], seen["GID"], seen["Groups"]) != "1000 1000 [7]" {
				t.Errorf("%v %v %v", seen["UID"], seen["GID"], seen["Groups"])
			}
			limit := int64(1 << 30)
			b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
			b.config()
			if r := as("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, "cgroup") {
				t.Errorf("limits without a cgroup: %d %q", r.code, r.err)
			}
			b.spec.Linux.Resources, b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil, nil
			b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[:len(b.spec.Linux.Namespaces)-1]
			b.config()
			if r := as("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, "needs a new user namespace") {
				t.Errorf("without a user namespace: %d %q", r.code, r.err)
			}
		})
	}
}

// A runtime that is root of a user namespace already, as under rootless Podman: the config asks for none.
func TestNestedInUserNamespace(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.config()
	b.belongs(800000)
	holder := exec.Command("sleep", "600")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 800000, Size: 65536}}
	holder.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	life(t, b, func(args ...string) result {
		return b.command(nil, "nsenter", append([]string{"-t", fmt.Sprint(holder.Process.Pid), "-U", "-m", "--setuid", "0", "--setgid", "0", runtimeBin(), "--root", b.root}, args...)...)
	})
}
