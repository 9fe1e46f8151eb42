package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/berth-runtime/berth/test/bundle"
	"github.com/berth-runtime/berth/test/jail"
)

// bin holds the runtime under attack and the payload.
var bin string

// cgroups is where the tests' containers live.
var cgroups string

func TestMain(m *testing.M) {
	if os.Getenv(killerEnv) != "" {
		os.Exit(killer(os.Args[1:]))
	}
	dir, err := jail.Enter(build)
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
	os.Chmod(dir, 0o755)
	// Cgroups are the machine's, and process ids those of a namespace: the directory's name is one of a kind.
	bin, cgroups = dir, "/berth-attack-"+filepath.Base(dir)
	code := m.Run()
	os.RemoveAll(dir)
	bundle.RemoveGroups(cgroups)
	os.Exit(code)
}

// build makes the payload and the runtime, or copies one: some attacks are on its file.
func build(dir string) error {
	programs := map[string]string{"probe": "./testdata/probe"}
	if r := os.Getenv("RUNTIME"); r == "" {
		programs["runtime"] = "../../cmd/berth-oci"
	} else if text, err := os.ReadFile(r); err != nil {
		return err
	} else if err := os.WriteFile(dir+"/runtime", text, 0o755); err != nil {
		return err
	}
	for name, pkg := range programs {
		flags := "-ldflags=-s -w"
		if name == "runtime" && runtime.GOARCH == "amd64" {
			flags += " -E _berth_entry" // as the Makefile does: exec, start and delete without a Go runtime
		}
		if err := bundle.Build(filepath.Join(dir, name), pkg, "-trimpath", flags); err != nil {
			return err
		}
	}
	return nil
}

func runtimeBin() string { return bin + "/runtime" }

// long asks for the whole of what is otherwise sampled.
func long() bool { return os.Getenv("ATTACK_LONG") != "" }

// creates is how many containers a race makes then.
func creates() int {
	if n, err := strconv.Atoi(os.Getenv("ATTACK_CREATES")); err == nil {
		return n
	}
	return 100_000
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, mounts and cgroups")
	}
}
