package ns_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/ns"
)

// A tree behind a descriptor that is mounted nowhere is there for the program, which does not get the descriptor; layers are seen with
// the ids of a user namespace; and what is mounted is not seen outside, also where the mount it lies on is shared.
func TestWithMountsOfAllKinds(t *testing.T) {
	needRoot(t)
	t.Parallel()
	dir := t.TempDir()
	m := []ns.IDMap{{HostID: 100000, Size: 1000}}
	h := hold(t, ns.Spec{User: true, UIDMap: m, GIDMap: m})
	for _, d := range []string{"a", "b", "upper", "work", "root", "shm"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "b/file"), []byte("x"), 0o644)
	if err := os.Chown(filepath.Join(dir, "b/file"), 7, 8); err != nil {
		t.Fatal(err)
	}
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	shm := os.NewFile(uintptr(fd), "shm")
	defer shm.Close()
	mounts := ns.Mounts{
		Overlays: []ns.Overlay{{Target: dir + "/root", UserNS: "/proc/" + itoa(h.pid) + "/ns/user",
			Options: []string{"lowerdir+=" + dir + "/a", "lowerdir+=" + dir + "/b", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"}}},
		Binds: []ns.Bind{{FD: 3, Target: dir + "/shm"}},
	}
	for range 2 { // the tree is there for each
		c := ns.WithMounts(mounts, []string{"/bin/sh", "-c",
			`cd "$1" && stat -c '%u %g' root/file && stat -f -c %T shm root && cat shm/said 2>/dev/null; echo hello >shm/said; [ ! -e /proc/self/fd/3 ] && echo bare; ls root`, "sh", dir}, nil)
		cmd := exec.Command(monitorBin())
		cmd.Args, cmd.Env, cmd.ExtraFiles = c.Argv, c.Env, []*os.File{shm}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: c.Clone}
		out, err := cmd.CombinedOutput()
		want := "100007 100008 tmpfs overlayfs bare file"
		if got := strings.Join(strings.Fields(strings.ReplaceAll(string(out), "hello\n", "")), " "); err != nil || got != want {
			t.Errorf("%v: %q, want %q", err, out, want)
		}
		if n, _ := filepath.Glob(dir + "/shm/*"); n != nil {
			t.Error("the host sees what is in the mount")
		}
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), dir) {
		t.Error("the host sees a mount")
	}
}
