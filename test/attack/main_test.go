package attack_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// bin holds the runtime under attack and the payload.
var bin string

// cgroups is where the tests' containers live.
var cgroups = fmt.Sprintf("/berth-attack-%d", os.Getpid())

func TestMain(m *testing.M) {
	if os.Getenv(killerEnv) != "" {
		os.Exit(killer(os.Args[1:]))
	}
	dir, err := os.MkdirTemp("", "berth-attack")
	if err != nil {
		panic(err)
	}
	os.Chmod(dir, 0o755)
	bin = dir
	build("probe", "./testdata/probe")
	if r := os.Getenv("RUNTIME"); r != "" {
		copyRuntime(r)
	} else {
		build("runtime", "../../cmd/berth-oci")
	}
	code := m.Run()
	os.RemoveAll(dir)
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroups)
	for _, d := range append(dirs, "/sys/fs/cgroup"+cgroups) {
		unix.Rmdir(d)
	}
	os.Exit(code)
}

func build(name, pkg string) {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(bin, name), pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build %s: %v\n%s", name, err, out))
	}
}

// copyRuntime copies it, for some attacks are on its file.
func copyRuntime(name string) {
	from, err := os.Open(name)
	if err != nil {
		panic(err)
	}
	defer from.Close()
	to, err := os.OpenFile(bin+"/runtime", os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		panic(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		panic(err)
	}
}

func runtimeBin() string { return bin + "/runtime" }

// native reports whether this is our own runtime: some promises are only ours.
func native() bool {
	return os.Getenv("RUNTIME") == "" || filepath.Base(os.Getenv("RUNTIME")) == "berth-oci"
}

// long asks for the whole of what is otherwise sampled.
func long() bool { return os.Getenv("ATTACK_LONG") != "" }

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, mounts and cgroups")
	}
}
