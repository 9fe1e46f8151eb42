package launch_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestOrdinary(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	soft := uint64(700)
	b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: soft, Hard: 900}}
	score := 500
	b.spec.Process.OOMScoreAdj = &score
	r := b.report()
	status := r["Status"].(map[string]any)
	for _, want := range []struct{ what, got, want string }{
		{"pid", fmt.Sprint(r["Pid"]), "1"},
		{"hostname", fmt.Sprint(r["Hostname"]), "box"},
		{"cwd", fmt.Sprint(r["Cwd"]), "/"},
		{"env", fmt.Sprint(r["Env"]), "[PATH=/bin:/ HOME=/root]"},
		{"CapEff", fmt.Sprint(status["CapEff"]), "00000000a80425fb"},
		{"CapBnd", fmt.Sprint(status["CapBnd"]), "00000000a80425fb"},
		{"CapInh", fmt.Sprint(status["CapInh"]), "0000000000000000"},
		{"NoNewPrivs", fmt.Sprint(status["NoNewPrivs"]), "1"},
		{"oom", fmt.Sprint(r["OOM"]), "500"},
		{"nofile", fmt.Sprint(r["NoFile"]), "[899 900]"}, // a Go program raises its soft limit to one below the hard one
		{"umask", fmt.Sprint(r["Umask"]), "18"},
	} {
		if want.got != want.want {
			t.Errorf("%s: %s, want %s", want.what, want.got, want.want)
		}
	}
	if fds := r["FDs"].([]any); len(fds) != 3 {
		t.Errorf("descriptors: %v, want 0, 1, 2", fds)
	}
	if groups := strings.Split(fmt.Sprint(r["Cgroup"]), "\n"); !strings.HasSuffix(groups[0], ":/") {
		t.Errorf("cgroup: %v, want / of a namespace", groups)
	}
}

func TestMountTable(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	b.spec.Root.Readonly = true
	src := t.TempDir()
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/a/b", Type: "bind", Source: src, Options: []string{"rbind", "ro", "rprivate", "nosuid"}},
		specs.Mount{Destination: "/made", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "mode=700"}})
	mounts := b.report()["Mounts"].(map[string]any)
	for dest, want := range map[string]string{"/": "ro", "/proc": "proc rw,nosuid,nodev,noexec", "/dev": "tmpfs rw,nosuid", "/dev/pts": "devpts rw,nosuid,noexec",
		"/dev/shm": "tmpfs rw,nosuid,nodev,noexec", "/dev/mqueue": "mqueue rw,nosuid,nodev,noexec", "/sys": "sysfs ro,nosuid,nodev,noexec",
		"/a/b": "ro,nosuid", "/made": "tmpfs ro", "/proc/sys": "proc ro", "/proc/kcore": "", "/sys/firmware": "tmpfs ro"} {
		got, ok := mounts[dest].(string)
		if dest == "/proc/kcore" {
			if _, err := os.Stat("/proc/kcore"); err != nil {
				continue
			}
		}
		if !ok || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", dest, got, want)
		}
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	mask := uint32(0o077)
	b.spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 9}, Umask: &mask}
	b.spec.Process.Cwd = "/made/here"
	r := b.report()
	got := fmt.Sprintf("%v %v %v %v %v", r["UID"], r["GID"], r["Groups"], r["Cwd"], r["Umask"])
	if want := "1000 1001 [7 9] /made/here 63"; got != want {
		t.Errorf("identity: %s, want %s", got, want)
	}
	if status := r["Status"].(map[string]any); status["CapEff"] != "0000000000000000" || status["CapBnd"] != "00000000a80425fb" {
		t.Errorf("capabilities of a user: %v %v", status["CapEff"], status["CapBnd"])
	}
	if env := fmt.Sprint(r["Env"]); !strings.Contains(env, "HOME=/home/user") {
		t.Errorf("env %s", env)
	}
}

func TestAmbient(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	one := []string{"CAP_NET_BIND_SERVICE"}
	b.spec.Process.User.UID = 1000
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Effective: one, Permitted: one, Inheritable: one, Ambient: one}
	status := b.report()["Status"].(map[string]any)
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if status[set] != "0000000000000400" {
			t.Errorf("%s: %v", set, status[set])
		}
	}
}

func TestOverlay(t *testing.T) {
	t.Parallel()
	b := newBox(t, "write", "/new")
	dir := t.TempDir()
	for _, d := range []string{"/u", "/w", "/l"} {
		os.Mkdir(dir+d, 0o755)
	}
	b.spec.Root = &specs.Root{}
	b.spec.Mounts = append([]specs.Mount{{Destination: "/", Type: "overlay", Source: "overlay", Options: []string{"lowerdir+=" + dir + "/l",
		"lowerdir+=" + b.bundle + "/rootfs", "upperdir=" + dir + "/u", "workdir=" + dir + "/w"}}}, b.spec.Mounts...)
	if r := b.run(); r.code != 0 {
		t.Fatalf("run: %d: %s%s", r.code, r.err, r.out)
	}
	if _, err := os.Stat(dir + "/u/new"); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(text), dir) {
		t.Error("the overlay is in the host's mount table")
	}
}

func TestUserNamespace(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = maps, maps
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	r := b.report()
	if fmt.Sprint(r["UID"], r["Pid"]) != "0 1" {
		t.Errorf("uid, pid: %v %v", r["UID"], r["Pid"])
	}
	if dev := r["Devices"].(map[string]any)["null"]; dev != "20666 1:3" {
		t.Errorf("/dev/null: %v", dev)
	}
}

// A user namespace may not mount the procfs of a PID namespace it does not own: the runtime's stands in.
func TestUserNamespaceHostPid(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = maps, maps
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces[1:], specs.LinuxNamespace{Type: "user"})
	b.create()
	b.must("start", b.id)
	seen := decode(t, b.must("exec", b.id, "/probe", "report").out)
	if status := seen["Status"].(map[string]any); status["Pid"] != fmt.Sprint(seen["Pid"]) || seen["Pid"].(float64) < 2 {
		t.Errorf("pid %v, of /proc %v", seen["Pid"], status["Pid"])
	}
	if r := b.oci("exec", b.id, "/probe", "write", "/proc/sys/kernel/hostname"); r.code == 0 {
		t.Error("/proc/sys is writable")
	}
	if line := fmt.Sprint(seen["Mounts"].(map[string]any)["/proc"]); !strings.Contains(line, "nosuid,nodev,noexec") {
		t.Errorf("/proc: %s", line)
	}
}

func TestJoinedNamespaces(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { holder.Process.Kill(); holder.Wait() }()
	ns := fmt.Sprintf("/proc/%d/ns/", holder.Process.Pid)
	b.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "cgroup"}, {Type: "network", Path: ns + "net"},
		{Type: "ipc", Path: ns + "ipc"}, {Type: "uts", Path: ns + "uts"}}
	b.create()
	pid, _ := os.ReadFile(b.bundle + "/pid")
	for _, k := range []string{"net", "ipc", "uts"} {
		want, _ := os.Readlink(ns + k)
		if got, _ := os.Readlink("/proc/" + string(pid) + "/ns/" + k); got != want {
			t.Errorf("%s: %s, want %s", k, got, want)
		}
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	b.status("created")
	if r := b.oci("create", "--bundle", b.bundle, b.id); r.code == 0 {
		t.Error("the id was given twice")
	}
	if r := b.oci("delete", b.id); r.code == 0 {
		t.Error("deleted without force while created")
	}
	b.must("start", b.id)
	b.status("running")
	if r := b.oci("start", b.id); r.code == 0 {
		t.Error("started twice")
	}
	b.must("pause", b.id)
	b.status("paused")
	b.must("resume", b.id)
	b.must("kill", b.id, "KILL")
	for end := time.Now().Add(time.Minute); !strings.Contains(b.must("state", b.id).out, "stopped") && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	b.status("stopped")
	if r := b.oci("kill", b.id, "TERM"); r.code == 0 {
		t.Error("killed a stopped one")
	}
	b.must("delete", b.id)
	if r := b.oci("state", b.id); r.code == 0 {
		t.Error("state of a deleted one")
	}
}

func (b *box) status(want string) {
	b.t.Helper()
	if out := b.must("state", b.id).out; !strings.Contains(out, fmt.Sprintf("%q", want)) {
		b.t.Errorf("status is not %s: %s", want, out)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	b.must("start", b.id)
	r := b.must("exec", b.id, "/probe", "report")
	seen := decode(t, r.out)
	if seen["Hostname"] != "box" || len(seen["FDs"].([]any)) != 3 {
		t.Errorf("hostname %v, descriptors %v", seen["Hostname"], seen["FDs"])
	}
	if st := seen["Status"].(map[string]any); st["CapEff"] != "00000000a80425fb" {
		t.Errorf("CapEff %v", st["CapEff"])
	}
	if r := b.oci("exec", b.id, "/probe", "exit", "7"); r.code != 7 {
		t.Errorf("exit code %d, want 7", r.code)
	}
	pidFile := b.bundle + "/exec.pid"
	r = b.oci("exec", "--detach", "--pid-file", pidFile, "--cgroup", "freezer:none", b.id, "/absent")
	if r.code == 0 || !strings.Contains(r.err, "/absent") || !strings.Contains(r.err, "no such file") {
		t.Errorf("exec of nothing: %d %q", r.code, r.err)
	}
	if _, err := os.Stat(pidFile); err == nil {
		t.Error("pid file of an exec that was none")
	}
	b.must("exec", "--detach", "--pid-file", pidFile, "--cgroup", "freezer:one", b.id, "/probe", "sleep")
	pid, _ := os.ReadFile(pidFile)
	group, _ := os.ReadFile("/proc/" + string(pid) + "/cgroup")
	if !strings.Contains(string(group), b.id+"/one") {
		t.Errorf("cgroup of exec: %s", group)
	}
}

// A program that can't be executed is start's error, not create's.
func TestStartError(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"/absent": "no such file", "absent": "not found in $PATH", "/etc": "permission denied", "/etc/passwd": "permission denied"} {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			b := newBox(t)
			b.spec.Process.Args = []string{name}
			b.create()
			if r := b.oci("start", b.id); r.code == 0 || !strings.Contains(r.err, want) || !strings.Contains(r.err, "exec "+name) {
				t.Errorf("start: %d %q, want %q", r.code, r.err, want)
			}
		})
	}
}

// What goes wrong inside the init comes back whole: step, path, cause; nothing is left (box.clean looks).
func TestCreateErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   string
	}{
		"source": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/absent"})
		}, "mounts[7]: bind /absent"},
		"target": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/passwd/x", Type: "tmpfs"})
		}, "mount /etc/passwd/x"},
		"option": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"what=1"}})
		}, "what"},
		"sysctl": {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.absent": "1"} }, "sysctl net/absent"},
		"rdt":    {func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "../x"} }, "linux.intelRdt"},
		"rlimit": {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_WHAT"}} }, "process.rlimits[0]"},
		"ns":     {func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/absent" }, "linux.namespaces"},
		"nsfile": {func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/self/ns/uts" }, "join namespace network"},
		"args":   {func(s *specs.Spec) { s.Process.Args = nil }, "process.args"},
		"cwd":    {func(s *specs.Spec) { s.Process.Cwd = "etc" }, "process.cwd"},
		"inproc": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/self", Type: "tmpfs"})
		}, "inside of /proc"},
		"version": {func(s *specs.Spec) { s.Version = "2.0.0" }, "ociVersion"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "sleep")
			c.change(b.spec)
			b.config()
			r := b.oci("--log", b.bundle+"/log", "--log-format", "json", "create", "--bundle", b.bundle, b.id)
			log, _ := os.ReadFile(b.bundle + "/log")
			if r.code == 0 || !strings.Contains(r.err, c.want) || !strings.Contains(string(log), `"level":"error"`) {
				t.Errorf("create: %d %q, want %q; log %s", r.code, r.err, c.want, log)
			}
			if _, err := os.Stat(b.root + "/" + b.id); err == nil {
				t.Error("state is left")
			}
		})
	}
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	b := newBox(t, "exit", "0")
	limit := int64(6 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	if r := b.run(); r.code != 0 {
		t.Errorf("6 MiB: %d %s", r.code, r.err)
	}
}

// kill -9 of create at any time leaves nothing that delete --force does not remove.
func TestKillCreate(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.config()
	for delay := time.Duration(0); delay < 12*time.Millisecond; delay += 700 * time.Microsecond {
		cmd := exec.Command(runtimeBin(), "--root", b.root, "create", "--bundle", b.bundle, b.id)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		cmd.Process.Kill()
		cmd.Wait()
		b.must("delete", "--force", b.id)
		if t.Failed() {
			return
		}
		b.clean()
	}
}

// Descriptors of the caller do not reach the container, those named do.
func TestInheritedDescriptors(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	f, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b.config()
	r := b.ociEnv([]*os.File{f, f}, "run", "--bundle", b.bundle, b.id)
	if fds := decode(t, r.out)["FDs"].([]any); len(fds) != 3 {
		t.Errorf("descriptors %v", fds)
	}
	r = b.ociEnv([]*os.File{f, f}, "run", "--preserve-fds", "1", "--bundle", b.bundle, b.id)
	if fds := decode(t, r.out)["FDs"].([]any); len(fds) != 4 {
		t.Errorf("descriptors %v, want one more", fds)
	}
}

// A bind source may be a descriptor handed to create: a detached tmpfs, as a pod's /dev/shm is.
func TestBindDescriptor(t *testing.T) {
	t.Parallel()
	b := newBox(t, "cat", "/dev/shm/f")
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigCreate(ctx); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	shm := os.NewFile(uintptr(fd), "shm")
	defer shm.Close()
	if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/f", fd), []byte("shared"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts[3] = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/proc/self/fd/3", Options: []string{"bind", "nosuid"}}
	b.config()
	if r := b.ociEnv([]*os.File{shm}, "run", "--bundle", b.bundle, b.id); r.out != "shared" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
}

// unified reaches the cgroup2 tree, of a hybrid host too; a controller that is not in it is refused by name.
func TestUnified(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root += "/unified"
	}
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		t.Skip("needs a cgroup2 mount")
	}
	b.spec.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"cgroup.max.descendants": "7"}}
	b.create()
	if text, _ := os.ReadFile(root + cgroups + "/" + b.id + "/cgroup.max.descendants"); strings.TrimSpace(string(text)) != "7" {
		t.Errorf("%q", text)
	}
	c := newBox(t, "sleep")
	c.id += "-none"
	c.spec.Linux.CgroupsPath += "-none"
	c.spec.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"nothing.max": "7"}}
	c.config()
	if r := c.oci("create", "--bundle", c.bundle, c.id); r.code == 0 || !strings.Contains(r.err, "nothing.max") {
		t.Errorf("%d %q", r.code, r.err)
	}
}
