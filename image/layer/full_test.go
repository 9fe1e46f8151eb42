package layer_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/layer"
)

// TestFull: a full file system is said to be full.
func TestFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	_, err := unpack(dir, bytes.NewReader(archive(t, f("a", strings.Repeat("x", 2<<20)))), layer.Limits{})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error is %v", err)
	}
}
