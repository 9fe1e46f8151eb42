package launch_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bin holds the runtime and the payload, built once for all tests.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "berth-oci-test")
	if err != nil {
		panic(err)
	}
	os.Chmod(dir, 0o755)
	bin = dir
	for name, pkg := range map[string]string{"berth-oci": "../../cmd/berth-oci", "probe": "./testdata/probe"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		if name == "berth-oci" && runtime.GOARCH == "amd64" {
			cmd.Args = slices.Insert(cmd.Args, 2, "-ldflags=-E _berth_entry") // as the Makefile does: package quick
		}
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("build %s: %v\n%s", name, err, out))
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroups)
	for _, d := range append(dirs, "/sys/fs/cgroup"+cgroups) {
		unix.Rmdir(d)
	}
	os.Exit(code)
}

// cgroups is where the tests' containers live.
var cgroups = fmt.Sprintf("/berth-oci-test-%d", os.Getpid())

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, mounts and cgroups")
	}
}

// box is one container of a test.
type box struct {
	t      *testing.T
	root   string // the runtime's
	bundle string
	id     string
	spec   *specs.Spec
}

// runtimeBin is the runtime under test; another one shows that the tests test something.
func runtimeBin() string {
	if r := os.Getenv("RUNTIME"); r != "" {
		return r
	}
	return bin + "/berth-oci"
}

func newBox(t *testing.T, args ...string) *box {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	b := &box{t: t, root: dir + "/root", bundle: dir + "/bundle", id: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))}
	for _, d := range []string{"", "/rootfs", "/rootfs/etc", "/rootfs/proc", "/rootfs/sys", "/rootfs/dev", "/rootfs/tmp"} {
		if err := os.Mkdir(b.bundle+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Dir(dir), 0o755)
	os.Chmod(dir, 0o755)
	if err := os.Link(bin+"/probe", b.bundle+"/rootfs/probe"); err != nil {
		t.Fatal(err)
	}
	b.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
	b.spec = baseSpec(append([]string{"/probe"}, args...))
	b.spec.Linux.CgroupsPath = cgroups + "/" + b.id
	t.Cleanup(b.clean)
	return b
}

func (b *box) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.bundle+"/rootfs/"+name, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func baseSpec(args []string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	m := func(dest, kind string, o ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: kind, Source: kind, Options: o}
	}
	return &specs.Spec{
		Version: "1.0.2", Hostname: "box", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin:/"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{m("/proc", "proc", "nosuid", "noexec", "nodev"), m("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			m("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			m("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			m("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"), m("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			m("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// clean removes the container and fails the test when something of it is left.
func (b *box) clean() {
	b.oci("delete", "--force", b.id)
	if left, _ := os.ReadDir(b.root); len(left) > 0 {
		for _, e := range left {
			if e.Name()[0] != '.' {
				b.t.Errorf("state of %s is left", e.Name())
			}
		}
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroups + "/" + b.id)
	if one := "/sys/fs/cgroup" + cgroups + "/" + b.id; unix.Access(one, unix.F_OK) == nil {
		dirs = append(dirs, one)
	}
	if len(dirs) > 0 {
		b.t.Errorf("cgroups are left: %v", dirs)
	}
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// oci runs the runtime with files for output: a pipe would stay open in the container's init.
func (b *box) oci(args ...string) result { return b.ociEnv(nil, args...) }

func (b *box) ociEnv(extra []*os.File, args ...string) result {
	b.t.Helper()
	return b.command(extra, runtimeBin(), append([]string{"--root", b.root}, args...)...)
}

// command runs a program with files for output.
func (b *box) command(extra []*os.File, name string, args ...string) result {
	b.t.Helper()
	out, _ := os.Create(b.t.TempDir() + "/out")
	errs, _ := os.Create(b.t.TempDir() + "/err")
	defer out.Close()
	defer errs.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, errs, extra
	done := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer done.Stop()
	cmd.Run()
	text, _ := os.ReadFile(out.Name())
	said, _ := os.ReadFile(errs.Name())
	return result{cmd.ProcessState.ExitCode(), string(text), string(said)}
}

func (b *box) config() {
	b.t.Helper()
	text, err := json.Marshal(b.spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.bundle+"/config.json", text, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// run runs the container to its end.
func (b *box) run() result {
	b.t.Helper()
	b.config()
	return b.oci("run", "--bundle", b.bundle, b.id)
}

// report runs the payload and decodes what it saw.
func (b *box) report() map[string]any {
	b.t.Helper()
	r := b.run()
	if r.code != 0 {
		b.t.Fatalf("run: %d: %s%s", r.code, r.err, r.out)
	}
	return decode(b.t, r.out)
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	seen := map[string]any{}
	if err := json.NewDecoder(bytes.NewReader([]byte(text))).Decode(&seen); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return seen
}

// must runs a command that has to succeed.
func (b *box) must(args ...string) result {
	b.t.Helper()
	r := b.oci(args...)
	if r.code != 0 {
		b.t.Fatalf("%v: %d: %s", args, r.code, r.err)
	}
	return r
}

// create makes a container that sleeps.
func (b *box) create() {
	b.t.Helper()
	b.config()
	b.must("create", "--bundle", b.bundle, "--pid-file", b.bundle+"/pid", b.id)
}
