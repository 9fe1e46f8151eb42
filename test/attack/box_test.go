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

	"github.com/berth-runtime/berth/test/bundle"
	"github.com/berth-runtime/berth/test/bundle/seen"
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
	bundle.Make(t, b.bundle, bin+"/probe")
	b.spec = bundle.Spec(append([]string{"/probe"}, args...)...)
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	b.spec.Linux.CgroupsPath = cgroups + "/" + b.id
	t.Cleanup(b.clean)
	return b
}

func (b *box) write(name, text string) {
	b.t.Helper()
	bundle.Write(b.t, b.bundle, name, text)
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

// clean removes the container and fails the test when something of it is left.
func (b *box) clean() {
	b.oci("delete", "--force", b.id)
	if left := b.left(); left != "" {
		b.t.Error(left)
	}
}

// left tells what there still is of the container: state, cgroups, mounts. Cgroups may take a moment to go.
func (b *box) left() string {
	for end := time.Now().Add(patience()); ; time.Sleep(10 * time.Millisecond) {
		left := bundle.Left(b.root, cgroups+"/"+b.id)
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

// oci runs the runtime.
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
	cmd := exec.Command(runtimeBin(), append([]string{"--root", b.root}, args...)...)
	cmd.ExtraFiles = extra
	if stdin != nil {
		cmd.Stdin = stdin
	}
	r := bundle.Run(b.t, cmd, patience())
	return result{r.Code, r.Out, r.Err, r.Late}
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
	bundle.JSON(b.t, b.bundle, "config.json", b.spec)
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
func (b *box) report(paths ...string) *seen.Reach {
	b.t.Helper()
	b.spec.Process.Args = append([]string{"/probe", "report"}, paths...)
	return b.decode(b.run())
}

func (b *box) decode(r result) *seen.Reach {
	b.t.Helper()
	if r.code != 0 {
		return nil
	}
	s := new(seen.Reach)
	if err := json.Unmarshal([]byte(r.out), s); err != nil {
		b.t.Fatalf("%v in %q", err, r.out)
	}
	return s
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
	for end := time.Now().Add(patience()); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
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
