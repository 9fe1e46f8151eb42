package hold

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Both ways of mounting, the older kernels' too, in a mount namespace of one thread.
func TestOverlayMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts an overlay")
	}
	for name, mount := range map[string]func(Overlay) error{"descriptor": Overlay.byDescriptor, "string": Overlay.byString} {
		dir := t.TempDir()
		o := Overlay{Target: filepath.Join(dir, "target")}
		for _, d := range []string{"top", `mid:d,l\e`, "bottom"} {
			os.Mkdir(filepath.Join(dir, d), 0o755)
			os.WriteFile(filepath.Join(dir, d, "who"), []byte(d), 0o644)
			os.WriteFile(filepath.Join(dir, d, "in-"+d), nil, 0o644)
			o.Options = append(o.Options, "lowerdir+="+filepath.Join(dir, d))
		}
		for _, d := range []string{"up,per", "work", "target"} {
			os.Mkdir(filepath.Join(dir, d), 0o755)
		}
		o.Options = append(o.Options, "upperdir="+filepath.Join(dir, "up,per"), "workdir="+filepath.Join(dir, "work"), "volatile")
		done := make(chan struct{})
		// ends at once; its thread, which has other mounts, with it
		go func() {
			defer close(done)
			runtime.LockOSThread()
			err := unix.Unshare(unix.CLONE_NEWNS)
			if err == nil {
				err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
			}
			if err == nil {
				err = mount(o)
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			entries, _ := os.ReadDir(o.Target)
			who, _ := os.ReadFile(filepath.Join(o.Target, "who"))
			if len(entries) != 4 || string(who) != "top" {
				t.Errorf("%s: %d entries, %q on top", name, len(entries), who)
			}
			if err := os.WriteFile(filepath.Join(o.Target, "new"), nil, 0o644); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}()
		<-done
		if _, err := os.Stat(filepath.Join(dir, "up,per", "new")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Overlay{Target: "/", Options: []string{"lowerdir+=/" + string(make([]byte, 5000))}}).byString(); err != unix.E2BIG {
		t.Error(err)
	}
}
