package image_test

import (
	"os"
	"testing"

	"github.com/berth-runtime/berth/image/layer"
)

// TestMain lets the test binary be the unpacking child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "unpack" {
		os.Exit(layer.UnpackMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount namespaces, device nodes, owners")
	}
}
