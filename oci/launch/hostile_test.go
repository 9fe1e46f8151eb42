package launch_test

import (
	"os"
	"testing"
)

// What hostile images try is in test/attack; this one is what the table of fields refers to.

// A container that brings its own /dev/null does not choose what masked paths are covered with.
func TestMaskWithOwnNull(t *testing.T) {
	t.Parallel()
	b := newBox(t, "write", "/secret")
	b.spec.Mounts = append(b.spec.Mounts[:1], b.spec.Mounts[2:]...)
	b.write("dev/null", "mine")
	b.write("secret", "secret")
	b.spec.Linux.MaskedPaths = []string{"/secret"}
	if r := b.run(); r.code == 0 {
		if text, _ := os.ReadFile(b.bundle + "/rootfs/dev/null"); string(text) != "mine" {
			t.Errorf("written through the mask: %q", text)
		}
	}
	if text, _ := os.ReadFile(b.bundle + "/rootfs/secret"); string(text) != "secret" {
		t.Errorf("secret became %q", text)
	}
}
