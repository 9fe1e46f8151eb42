package nofile_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/berth-runtime/berth/oci/launch/nofile"
)

// TestMain prints the limit when it is the program that the test below executes.
func TestMain(m *testing.M) {
	if os.Getenv("NOFILE_CHILD") != "" {
		fmt.Print(nofile.Soft)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The limit is the one before the Go runtime raised it.
func TestSoft(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/bin/sh", "-c", `ulimit -Sn 321; exec "$0"`, "/proc/self/exe")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[3] = exe
	cmd.Env = append(os.Environ(), "NOFILE_CHILD=1")
	out, err := cmd.Output()
	if err != nil || string(out) != "321" {
		t.Errorf("%q %v", out, err)
	}
}
