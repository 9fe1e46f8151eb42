package conform_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
	"github.com/berth-runtime/berth/test/bundle/seen"
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
const patience = time.Minute

func TestMain(m *testing.M) {
	os.Exit(func() int {
		oci = os.Getenv("RUNTIME")
		if oci == "" {
			oci = "../../bin/berth-oci"
		}
		oci, _ = filepath.Abs(oci)
		dir, err := jail.Enter(func(dir string) error { return bundle.Build(dir+"/probe", "./testdata/probe") })
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
		bundle.RemoveGroups(cgroups)
		return code
	}())
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
	bundle.Make(t, b.bundle, bin+"/probe")
	b.file("inside", "")
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

// file writes into the container's root file system.
func (b *box) file(name, text string) {
	b.Helper()
	bundle.Write(b.T, b.bundle, name, text)
}

// base is a container with no cgroup namespace, and no cgroups to be seen: not every runtime can show v1 hierarchies.
func base(args []string) *specs.Spec {
	s := bundle.Spec(args...)
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	return s
}

func mnt(dest, kind string, o ...string) specs.Mount { return bundle.Mount(dest, kind, o...) }

func bind(dest, source string, o ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind"}, o...)}
}

// clean removes the container and fails the test when something of it is left.
func (b *box) clean() {
	b.oci("delete", "--force", b.id)
	left := bundle.Left(b.root, groupPath(b.id))
	// systemd forgets a unit, and its cgroup, some time after the last process has gone.
	for end := time.Now().Add(patience); systemd && len(left) > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		left = bundle.Left(b.root, groupPath(b.id))
	}
	if len(left) > 0 {
		b.Errorf("left: %v", left)
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

// with runs the runtime with what cmd says of directory, descriptors and input.
func (b *box) with(cmd *exec.Cmd, args ...string) result {
	b.Helper()
	global := []string{oci, "--root", b.root}
	if systemd {
		global = append(global, "--systemd-cgroup")
	}
	cmd.Path, cmd.Args = oci, append(global, args...)
	r := bundle.Run(b.T, cmd, 2*patience)
	return result{r.Code, r.Out, r.Err}
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
	return bundle.JSON(b.T, b.bundle, name, doc)
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

// begin creates and starts the container, as far as that goes.
func (b *box) begin() result {
	b.Helper()
	r := b.create()
	if r.code == 0 {
		r = b.oci("start", b.id)
	}
	return r
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
func (b *box) sees() *seen.Process {
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

func decode(t *testing.T, text string) *seen.Process {
	t.Helper()
	s := new(seen.Process)
	if err := json.Unmarshal([]byte(text), s); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return s
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
