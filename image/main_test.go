package image_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/image/layer"
)

// TestMain lets the test binary be the unpacking child, or a pull to be killed or measured.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "unpack" {
		os.Exit(layer.UnpackMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "pull" { // ROOT REF; prints its /proc/self/status
		s, err := image.Open(context.Background(), image.Options{Root: os.Args[2], Unpack: unpackArgv()})
		if err == nil {
			_, err = s.Pull(context.Background(), image.PullRequest{Ref: os.Args[3]})
		}
		if err != nil {
			os.Exit(1)
		}
		status, _ := os.ReadFile("/proc/self/status")
		os.Stdout.Write(status)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// unpackArgv is the unpacking child: this binary, or the one BERTH_TEST_UNPACK names. The race detector needs cgo, and a program with cgo
// can't drop privileges of all its threads.
func unpackArgv() []string {
	if argv := strings.Fields(os.Getenv("BERTH_TEST_UNPACK")); len(argv) > 0 {
		return argv
	}
	return []string{"/proc/self/exe", "unpack"}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount namespaces, device nodes, owners")
	}
}
