package launch_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/test/bundle"
)

// bin holds the runtime and the payload, built once for all tests.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "berth-oci-test")
	if err != nil {
		panic(err)
	}
	os.Chmod(dir, 0o755)
	// Cgroups are the machine's, and process ids those of a namespace: the directory's name is one of a kind.
	bin, cgroups = dir, "/"+filepath.Base(dir)
	for name, pkg := range map[string]string{"berth-oci": "../../cmd/berth-oci", "probe": "./testdata/probe"} {
		var flags []string
		if name == "berth-oci" && runtime.GOARCH == "amd64" {
			flags = append(flags, "-ldflags=-E _berth_entry") // as the Makefile does: package quick
		}
		if err := bundle.Build(filepath.Join(dir, name), pkg, flags...); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	bundle.RemoveGroups(cgroups)
	os.Exit(code)
}

// cgroups is where the tests' containers live.
var cgroups string

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
	os.Chmod(filepath.Dir(dir), 0o755)
	os.Chmod(dir, 0o755)
	bundle.Make(t, b.bundle, bin+"/probe")
	b.spec = bundle.Spec(append([]string{"/probe"}, args...)...)
	b.spec.Linux.CgroupsPath = cgroups + "/" + b.id
	t.Cleanup(b.clean)
	return b
}

func (b *box) write(name, text string) {
	b.t.Helper()
	bundle.Write(b.t, b.bundle, name, text)
}

// clean removes the container and fails the test when something of it is left.
func (b *box) clean() {
	b.oci("delete", "--force", b.id)
	if left := bundle.Left(b.root, cgroups+"/"+b.id); len(left) > 0 {
		b.t.Errorf("left: %v", left)
	}
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// oci runs the runtime.
func (b *box) oci(args ...string) result { return b.ociEnv(nil, args...) }

func (b *box) ociEnv(extra []*os.File, args ...string) result {
	b.t.Helper()
	return b.command(extra, runtimeBin(), append([]string{"--root", b.root}, args...)...)
}

// command runs a program that may run the runtime.
func (b *box) command(extra []*os.File, name string, args ...string) result {
	b.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.ExtraFiles = extra
	r := bundle.Run(b.t, cmd, 2*time.Minute)
	return result{r.Code, r.Out, r.Err}
}

func (b *box) config() {
	b.t.Helper()
	bundle.JSON(b.t, b.bundle, "config.json", b.spec)
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
