package fault

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/berth-runtime/berth/image"
)

// shared is what all tests use and none changes: programs, and an image store of its own for tests within one process.
type shared struct {
	dir      string
	bin      string
	registry *registry
	images   *image.Store
}

// the is nil, and reason says why, where tests can't run.
var (
	the    *shared
	reason string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run enters namespaces of its own first: what a test starts is then gone at the end whatever happens.
func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		reason = "needs root: namespaces, mounts and cgroups are made for real"
		return m.Run()
	}
	if os.Getenv("BERTH_IN_TESTNS") == "" {
		script, err := filepath.Abs("../../hack/testns.sh")
		if err == nil {
			err = syscall.Exec(script, append([]string{script}, os.Args...), os.Environ())
		}
		return complain(err)
	}
	dir, err := os.MkdirTemp("", "berth-fault-")
	if err != nil {
		return complain(err)
	}
	defer os.RemoveAll(dir)
	s := &shared{dir: dir, bin: filepath.Join(dir, "bin"), registry: newRegistry()}
	defer s.registry.Close()
	build := exec.Command("go", "build", "-o", s.bin+"/", "github.com/berth-runtime/berth/cmd/berth", "github.com/berth-runtime/berth/cmd/berth-monitor", "./fakeoci", "./fakecni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return complain(fmt.Errorf("go build: %w\n%s", err, out))
	}
	s.images, err = image.Open(context.Background(), image.Options{Root: filepath.Join(dir, "images"), Unpack: []string{filepath.Join(s.bin, "berth"), "unpack"}})
	if err != nil {
		return complain(err)
	}
	defer s.images.Close()
	if _, err := s.images.Pull(context.Background(), image.PullRequest{Ref: s.registry.ref("base")}); err != nil {
		return complain(err)
	}
	the = s
	return m.Run()
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "fault:", err)
	return 1
}
