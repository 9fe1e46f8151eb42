package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInitramfs has cpio(1) read the archive.
func TestInitramfs(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("needs cpio(1), Debian package cpio")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"agent": "program", "image/modules.list": "a.ko\n", "image/modules/a.ko": "module"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(dir, "initrd")
	if err := initramfs(archive, filepath.Join(dir, "agent"), filepath.Join(dir, "image")); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(cpio, "-itv", "-F", archive).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{" init\n", " modules.list\n", " modules/a.ko\n", " dev/console\n", " newroot\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(string(out), "-rwxr-xr-x") || !strings.Contains(string(out), "crw-------") {
		t.Errorf("modes:\n%s", out)
	}
}
