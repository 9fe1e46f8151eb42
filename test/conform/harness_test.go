package conform_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/jail"
)

// bin holds the probe, cgroups names where the tests' containers live, oci is the runtime under test, and systemd says that it
// has systemd make the cgroups (DRIVER=systemd). That needs the host's process ids, which the jail does not have: a machine
// that is thrown away afterwards does without one (hack/vm).
var (
	bin     string
	cgroups string
	oci     string
	systemd = os.Getenv("DRIVER") == "systemd"
)

// patience is for what happens in the background on a machine with much else to do.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	os.Exit(func() int {
		oci = os.Getenv("RUNTIME")
		if oci == "" {
			oci = "../../bin/berth-oci"
		}
		oci, _ = filepath.Abs(oci)
		dir, err := jail.Enter(buildProbe)
		if err != nil {
			fmt.Fprintln(os.Stderr, "conform:", err)
			return 1
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755)
		bin = dir
		// Cgroups are the machine's, and process ids those of a namespace: the directory's name is one of a kind.
		cgroups = "/berth-conform-" + filepath.Base(dir)
		if systemd { // a slice's name has a dash for each level
			cgroups = "/" + strings.ReplaceAll(cgroups[1:], "-", "") + ".slice"
		}
		// Containers are orphans when create has returned; their status shall come here.
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		code := m.Run()
		if systemd {
			exec.Command("systemctl", "stop", cgroups[1:]).Run()
		}
		for _, d := range groupDirs(cgroups) {
			unix.Rmdir(d)
		}
		return code
	}())
}

func buildProbe(dir string) error {
	cmd := exec.Command("go", "build", "-o", dir+"/probe", "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// box is one container of a test: a bundle, a runtime root of its own, and what came out of it.
type box struct {
	*testing.T
	root   string // the runtime's
	bundle string
	id     string
	spec   *specs.Spec
	out    string // file with the container's output
}

// newBox has the container run the probe.
func newBox(t *testing.T, args ...string) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, mounts and cgroups")
	}
	if _, err := os.Stat(oci); err != nil {
		t.Fatalf("no runtime: %v (make build)", err)
	}
	t.Parallel()
	b := makeBox(t, args...)
	t.Cleanup(func() { b.clean(); os.RemoveAll(filepath.Dir(b.bundle)) })
	return b
}

// makeBox makes the directories.
func makeBox(t *testing.T, args ...string) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "box")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-", "#", "-").Replace(t.Name()))
	b := &box{T: t, root: dir + "/root", bundle: dir + "/bundle", id: name, out: dir + "/out"}
	for _, d := range []string{"", "/rootfs", "/rootfs/etc", "/rootfs/proc", "/rootfs/sys", "/rootfs/dev", "/rootfs/tmp"} {
		if err := os.Mkdir(b.bundle+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(bin+"/probe", b.bundle+"/rootfs/probe"); err != nil {
		t.Fatal(err)
	}
	b.file("inside", "")
	b.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
	b.spec = base(append([]string{"/probe"}, args...))
	b.spec.Linux.CgroupsPath = groupName(b.id)
	return b
}

// groupName is a cgroupsPath as the runtime under test takes it.
func groupName(id string) string {
	if systemd {
		return cgroups[1:] + ":box:" + id
	}
	return cgroups + "/" + id
}

// groupPath is where the cgroup with that name is, below the root of each hierarchy.
func groupPath(id string) string {
	if systemd {
		return cgroups + "/box-" + id + ".scope"
	}
	return cgroups + "/" + id
}

// groupDirs are the directories of a cgroup that are there.
func groupDirs(path string) []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if one := "/sys/fs/cgroup" + path; exists(one) {
		dirs = append(dirs, one)
	}
	return dirs
}

// file writes into the container's root file system.
func (b *box) file(name, text string) {
	b.Helper()
	if err := os.WriteFile(b.bundle+"/rootfs/"+name, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
}

func base(args []string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	return &specs.Spec{
		Version: "1.0.2", Hostname: "box", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin:/"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{mnt("/proc", "proc", "nosuid", "noexec", "nodev"),
			mnt("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mnt("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			mnt("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mnt("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"), mnt("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro")},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func mnt(dest, kind string, o ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: kind, Source: kind, Options: o}
}

func bind(dest, source string, o ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind"}, o...)}
}

// clean removes the container and fails the test when something of it is left.
func (b *box) clean() {
	b.oci("delete", "--force", b.id)
	if _, err := os.Stat(b.root + "/" + b.id); err == nil {
		b.Errorf("state of %s is left", b.id)
	}
	// systemd forgets a unit, and its cgroup, some time after the last process has gone.
	for end := time.Now().Add(patience); systemd && len(groupDirs(groupPath(b.id))) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if dirs := groupDirs(groupPath(b.id)); len(dirs) > 0 {
		b.Errorf("cgroups are left: %v", dirs)
	}
}

func exists(name string) bool { _, err := os.Lstat(name); return err == nil }

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

func (r result) String() string { return fmt.Sprintf("status %d: %s%s", r.code, r.err, r.out) }

// oci runs the runtime.
func (b *box) oci(args ...string) result { b.Helper(); return b.with(&exec.Cmd{}, args...) }

// with runs the runtime with what cmd says of directory, descriptors and input. Output goes to files: a pipe would stay
// open in the container.
func (b *box) with(cmd *exec.Cmd, args ...string) result {
	b.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(bin, "out")
		if err != nil {
			b.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	if cmd.Stdout == nil {
		cmd.Stdout = files[0]
	}
	global := []string{oci, "--root", b.root}
	if systemd {
		global = append(global, "--systemd-cgroup")
	}
	cmd.Path, cmd.Args, cmd.Stderr = oci, append(global, args...), files[1]
	late := time.AfterFunc(2*patience, func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	defer late.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.Fatalf("%v: %v", args, err)
	}
	out, _ := os.ReadFile(files[0].Name())
	said, _ := os.ReadFile(files[1].Name())
	return result{cmd.ProcessState.ExitCode(), string(out), string(said)}
}

// must runs a command that has to succeed.
func (b *box) must(args ...string) result {
	b.Helper()
	r := b.oci(args...)
	if r.code != 0 {
		b.Fatalf("%v: %s", args, r)
	}
	return r
}

// refused runs a command that has to fail.
func (b *box) refused(args ...string) result {
	b.Helper()
	r := b.oci(args...)
	if r.code == 0 {
		b.Errorf("%v: succeeds", args)
	}
	return r
}

// config writes config.json.
func (b *box) config() {
	b.Helper()
	b.json("config.json", b.spec)
}

// json writes a document into the bundle and returns its name.
func (b *box) json(name string, doc any) string {
	b.Helper()
	text, err := json.Marshal(doc)
	if err == nil {
		err = os.WriteFile(b.bundle+"/"+name, text, 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
	return b.bundle + "/" + name
}

// create makes the container; its output goes to b.out.
func (b *box) create(args ...string) result {
	b.Helper()
	b.config()
	return b.createIn(&exec.Cmd{}, args...)
}

func (b *box) createIn(cmd *exec.Cmd, args ...string) result {
	b.Helper()
	f, err := os.OpenFile(b.out, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout = f
	return b.with(cmd, append(append([]string{"create", "--bundle", b.bundle}, args...), b.id)...)
}

func (b *box) created(args ...string) {
	b.Helper()
	if r := b.create(args...); r.code != 0 {
		b.Fatalf("create: %s", r)
	}
}

// started creates and starts the container, and waits until the probe has said "up".
func (b *box) started(args ...string) {
	b.Helper()
	b.created(args...)
	b.must("start", b.id)
	b.says("up")
}

// says waits until the container's output has the word.
func (b *box) says(word string) {
	b.Helper()
	b.until("the word "+word, func() bool { return strings.Contains(b.output(), word) })
}

func (b *box) output() string { text, _ := os.ReadFile(b.out); return string(text) }

func (b *box) until(what string, true func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !true(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("waited in vain for %s; output: %s", what, b.output())
		}
	}
}

// state is the document of the state command.
func (b *box) state() map[string]any {
	b.Helper()
	doc := map[string]any{}
	if err := json.Unmarshal([]byte(b.must("state", b.id).out), &doc); err != nil {
		b.Fatal(err)
	}
	return doc
}

func (b *box) pid() int {
	b.Helper()
	n, _ := b.state()["pid"].(float64)
	return int(n)
}

// status is "" for a container that does not exist.
func (b *box) status() string {
	doc := map[string]any{}
	r := b.oci("state", b.id)
	if r.code != 0 || json.Unmarshal([]byte(r.out), &doc) != nil {
		return ""
	}
	s, _ := doc["status"].(string)
	return s
}

// ended waits for an orphaned process and returns its exit code, 128+n for a signal.
func (b *box) ended(pid int) int {
	b.Helper()
	code := -1
	b.until("the end of "+strconv.Itoa(pid), func() bool {
		var ws unix.WaitStatus
		got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		if err != nil {
			b.Fatalf("wait for %d: %v", pid, err)
		}
		if got == pid && ws.Signaled() {
			code = 128 + int(ws.Signal())
		} else if got == pid {
			code = ws.ExitStatus()
		}
		return got == pid
	})
	return code
}

// run runs the container to its end, by create and start.
func (b *box) run() int {
	b.Helper()
	b.created()
	pid := b.pid()
	b.must("start", b.id)
	return b.ended(pid)
}

// sees has the container report.
func (b *box) sees() *seen {
	b.Helper()
	if code := b.run(); code != 0 {
		b.Fatalf("probe: status %d: %s", code, b.output())
	}
	return decode(b.T, b.output())
}

// tries has the container try operations, and compares what comes of them.
func (b *box) tries(want map[string]string) {
	b.Helper()
	b.spec.Process.Args = []string{"/probe", "try"}
	for what := range want {
		b.spec.Process.Args = append(b.spec.Process.Args, what)
	}
	if code := b.run(); code != 0 {
		b.Fatalf("probe: status %d: %s", code, b.output())
	}
	check(b.T, b.output(), want)
}

func check(t *testing.T, text string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	for what, w := range want {
		if w != "*" && got[what] != w {
			t.Errorf("%s: %q, want %q", what, got[what], w)
		}
	}
}

// seen is what the probe reports.
type seen struct {
	Args, Env        []string
	UID, GID, Umask  int
	Groups           []int
	Pid, Ppid        int
	Cwd              string
	Hostname, Domain string
	Status           map[string]string
	FDs              map[string]string
	Mounts           []mount
	Rlimits          map[string][2]uint64
	OOM              string
	Namespaces       map[string]string
	Cgroup           string
	Dev              map[string]string
	Personality      int
	Policy, Nice     int
	IOPriority       int
	Interfaces       map[string]bool
}

type mount struct{ At, Type, Options, Super, Tags, Source string }

func decode(t *testing.T, text string) *seen {
	t.Helper()
	s := new(seen)
	if err := json.Unmarshal([]byte(text), s); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return s
}

// mount is the topmost one at a path.
func (s *seen) mount(at string) mount {
	var m mount
	for _, x := range s.Mounts {
		if x.At == at {
			m = x
		}
	}
	return m
}

func (m mount) has(option string) bool {
	return strings.Contains(","+m.Options+",", ","+option+",")
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
