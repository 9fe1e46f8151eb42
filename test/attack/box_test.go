package attack_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// box is one container of a test.
type box struct {
	t      *testing.T
	root   string // the runtime's
	bundle string
	rootfs string
	id     string
	spec   *specs.Spec
}

var boxes atomic.Int64

// newBox makes a bundle whose root file system holds the payload and empty directories.
func newBox(t *testing.T, args ...string) *box {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755) // users of other user namespaces pass here
	}
	b := &box{t: t, root: dir + "/root", bundle: dir + "/bundle", rootfs: dir + "/bundle/rootfs", id: fmt.Sprintf("a%d-%d", os.Getpid(), boxes.Add(1))}
	for _, d := range []string{b.bundle, b.rootfs, b.rootfs + "/etc", b.rootfs + "/proc", b.rootfs + "/sys", b.rootfs + "/dev", b.rootfs + "/tmp"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(bin+"/probe", b.rootfs+"/probe"); err != nil {
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
	if err := os.WriteFile(b.rootfs+"/"+name, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// without drops the mount at a destination, so that the image's own is there.
func (b *box) without(dests ...string) *box {
	var keep []specs.Mount
	for _, m := range b.spec.Mounts {
		drop := false
		for _, d := range dests {
			drop = drop || m.Destination == d
		}
		if !drop {
			keep = append(keep, m)
		}
	}
	b.spec.Mounts = keep
	return b
}

func (b *box) mount(dest, kind, source string, options ...string) {
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Type: kind, Source: source, Options: options})
}

// userns gives the container a user namespace, and its files to the root in it.
func (b *box) userns() {
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = maps, maps
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	filepath.WalkDir(b.rootfs, func(p string, _ os.DirEntry, _ error) error { return os.Lchown(p, 200000, 200000) })
}

func defaultCaps() []string {
	return []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
}

func baseSpec(args []string) *specs.Spec {
	caps := defaultCaps()
	m := func(dest, kind string, o ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: kind, Source: kind, Options: o}
	}
	return &specs.Spec{
		Version: "1.0.2", Hostname: "box", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin:/"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{m("/proc", "proc", "nosuid", "noexec", "nodev"), m("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			m("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			m("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			m("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"), m("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			m("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// clean removes the container and fails the test when something of it is left.
func (b *box) clean() {
	b.oci("delete", "--force", b.id)
	if left := b.left(); left != "" {
		b.t.Error(left)
	}
}

// left tells what there still is of the container: state, cgroups, mounts. Cgroups may take a moment to go.
func (b *box) left() string {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var left []string
		entries, _ := os.ReadDir(b.root)
		for _, e := range entries {
			if e.Name()[0] != '.' {
				left = append(left, "state "+e.Name())
			}
		}
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroups + "/" + b.id)
		left = append(left, dirs...)
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(mounts), b.bundle) {
			left = append(left, "a mount below "+b.bundle)
		}
		if len(left) == 0 {
			return ""
		}
		if time.Now().After(end) {
			return "left: " + strings.Join(left, ", ")
		}
	}
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
	late     bool
}

// oci runs the runtime with files for output: a pipe would stay open in the container's init.
func (b *box) oci(args ...string) result { return b.ociWith(nil, nil, args...) }

// patience is how long a command may take before it counts as hanging.
func patience() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("ATTACK_PATIENCE")); err == nil {
		return d
	}
	return time.Minute
}

func (b *box) ociWith(stdin *os.File, extra []*os.File, args ...string) result {
	b.t.Helper()
	out, errs := b.tmp(), b.tmp()
	defer out.Close()
	defer errs.Close()
	cmd := exec.Command(runtimeBin(), append([]string{"--root", b.root}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, errs, extra
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var late atomic.Bool
	done := time.AfterFunc(patience(), func() { late.Store(true); cmd.Process.Kill() })
	defer done.Stop()
	cmd.Run()
	if late.Load() {
		b.t.Errorf("%v hangs", args)
	}
	text, _ := os.ReadFile(out.Name())
	said, _ := os.ReadFile(errs.Name())
	os.Remove(out.Name())
	os.Remove(errs.Name())
	return result{cmd.ProcessState.ExitCode(), string(text), string(said), late.Load()}
}

func (b *box) tmp() *os.File {
	f, err := os.CreateTemp(filepath.Dir(b.bundle), "out")
	if err != nil {
		b.t.Fatal(err)
	}
	return f
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

// run runs the container to its end. A runtime may refuse, but must say why.
func (b *box) run() result {
	b.t.Helper()
	b.config()
	r := b.oci("run", "--bundle", b.bundle, b.id)
	b.civil(r)
	return r
}

// civil: no crash, no silence.
func (b *box) civil(r result) {
	b.t.Helper()
	if r.code != 0 && r.out == "" && strings.TrimSpace(r.err) == "" || strings.Contains(r.err, "panic:") || strings.Contains(r.err, "goroutine ") {
		b.t.Errorf("crash: %d %q", r.code, r.err)
	}
}

// report runs the payload's report and decodes it; nil when the runtime refused the container.
func (b *box) report(paths ...string) *seen {
	b.t.Helper()
	b.spec.Process.Args = append([]string{"/probe", "report"}, paths...)
	return b.decode(b.run())
}

func (b *box) decode(r result) *seen {
	b.t.Helper()
	if r.code != 0 {
		return nil
	}
	s := new(seen)
	if err := json.Unmarshal([]byte(r.out), s); err != nil {
		b.t.Fatalf("%v in %q", err, r.out)
	}
	return s
}

// seen is the payload's report.
type seen struct {
	Env, Groups  []string
	UID, GID     int
	Cwd          string
	Status       map[string]string
	FDs          []string
	Mounts       map[string]string
	Access       map[string]string
	ProcIsProc   bool
	InitExe      string
	CgroupWrites []string
}

// start makes the container and starts it; false when the runtime refused. The payload's output goes to the file out.
func (b *box) start() (out string, ok bool) {
	b.t.Helper()
	b.config()
	f := b.tmp()
	defer f.Close()
	cmd := exec.Command(runtimeBin(), "--root", b.root, "create", "--bundle", b.bundle, "--pid-file", b.bundle+"/pid", b.id)
	errs := b.tmp()
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = f, errs
	if err := cmd.Run(); err != nil {
		return "", false
	}
	r := b.oci("start", b.id)
	return f.Name(), r.code == 0
}

func (b *box) pid() int {
	text, _ := os.ReadFile(b.bundle + "/pid")
	n, _ := strconv.Atoi(string(text))
	return n
}

// waitFor polls a file until it holds a text.
func (b *box) waitFor(file, text string) {
	b.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got, _ := os.ReadFile(file); strings.Contains(string(got), text) {
			return
		}
	}
	b.t.Fatalf("no %q in %s", text, file)
}

func lstat(name string) string {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%o %d:%d %d:%d", st.Mode, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev))
}
