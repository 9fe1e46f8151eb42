// Package handlers tests pods on foreign OCI runtimes, runc and crun, against the running daemon: the same life as on the
// native one, through the same monitor. A runtime that is not in .cache/peers (hack/peers.sh) is skipped.
package handlers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// runtimes are the programs below .cache/peers that are tried.
var runtimes = []string{"runc", "crun"}

func TestMain(m *testing.M) { os.Exit(harness.MainWith(m, config)) }

// config names every runtime, and handlers that can't work: a program that is missing, and one that answers nonsense.
func config(cache string) string {
	var b strings.Builder
	for _, name := range runtimes {
		fmt.Fprintf(&b, "[handlers.%s]\npath = %q\n", name, filepath.Join(cache, "peers", name))
	}
	fmt.Fprintf(&b, "[handlers.runsc]\npath = %q\nargs = [\"--platform=systrap\", \"--network=host\", \"--oci-seccomp\", \"--allow-suid\"]\n", filepath.Join(cache, "peers/runsc"))
	fmt.Fprintf(&b, "[handlers.bare]\npath = %q\nprivileged_without_host_devices = true\npod_annotations = [\"e2e.pod/*\", \"exact\"]\ncontainer_annotations = [\"e2e.ctr/one\"]\n",
		filepath.Join(cache, "peers/runc"))
	fmt.Fprintf(&b, "[handlers.missing]\npath = %q\n", missing())
	fmt.Fprintf(&b, "[handlers.nonsense]\npath = \"/bin/true\"\n")
	return b.String()
}

// missing is where TestBroken puts a runtime program later.
func missing() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("berth-e2e-runtime-%d", os.Getpid()))
}

// each runs the test for every runtime that is there.
func each(t *testing.T, test func(t *testing.T, n *harness.Node, handler string)) {
	for _, name := range runtimes {
		t.Run(name, func(t *testing.T) {
			n := harness.Get(t)
			n.Foreign(t)
			need(t, n, name)
			test(t, n, name)
		})
	}
}

// need skips where the runtime is missing.
func need(t *testing.T, n *harness.Node, name string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(n.Cache(), "peers", name)); err != nil {
		t.Skipf("no %s: hack/peers.sh %s gets it", name, name)
	}
	if name == "crun" {
		hideUnified(t)
	}
}

// hideUnified makes crun work on hybrid cgroups: it refuses a cgroup2 hierarchy beside the others that has controllers. In the
// mount namespace of the tests, and only there, that hierarchy says it has none.
func hideUnified(t *testing.T) {
	t.Helper()
	const file = "/sys/fs/cgroup/unified/cgroup.controllers"
	if b, err := os.ReadFile(file); err != nil || len(b) == 0 {
		return
	}
	if os.Getenv("BERTH_IN_TESTNS") == "" {
		t.Skip("crun refuses this host's hybrid cgroups")
	}
	if err := unix.Mount("/dev/null", file, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("hide the controllers of cgroup2: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(file, unix.MNT_DETACH) })
}
