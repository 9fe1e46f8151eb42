package ns_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/ns"
)

// tmpfs makes one that is mounted nowhere.
func tmpfs(t *testing.T) *os.File {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "tmpfs")
	t.Cleanup(func() { f.Close() })
	return f
}

// One mount serves any number of programs, also after whoever made it has closed it, with and without a mount namespace of the program's
// own. What a program gets is a detached mount with the attributes of the first, which it can attach; nobody else sees anything.
func TestAttach(t *testing.T) {
	needRoot(t)
	t.Parallel()
	dir := t.TempDir()
	m := tmpfs(t)
	held, err := ns.Attach(m, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	m.Close()
	run := func(mounts ns.Mounts, script string) string {
		t.Helper()
		c := ns.WithMounts(mounts, []string{"/bin/sh", "-c", script, "sh", dir}, nil)
		cmd := exec.Command(monitorBin())
		cmd.Args, cmd.Env, cmd.ExtraFiles, cmd.Dir = c.Argv, c.Env, []*os.File{held}, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: c.Clone}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	for _, word := range []string{"a", "b"} {
		run(ns.Mounts{Clones: []int{3}}, "echo "+word+" >/proc/self/fd/3/"+word)
	}
	// Where it stands, and its working directory, are what they would be without.
	want := dir + "\n" + strings.TrimSpace(readlink(t, "/proc/self/ns/mnt")) + "\n/\na\nb\n"
	if got := run(ns.Mounts{Clones: []int{3}}, "pwd; readlink /proc/self/ns/mnt /proc/self/root; ls /proc/self/fd/3/"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := os.Mkdir(filepath.Join(dir, "shm"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got := run(ns.Mounts{Clones: []int{3}, Binds: []ns.Bind{{FD: 3, Target: dir + "/shm"}}}, `ls "$1/shm"; grep -c "$1/shm .*noexec.* tmpfs" /proc/self/mountinfo; cat "$1/shm/b"`)
		if got != "a\nb\n1\nb\n" {
			t.Errorf("bound: %q", got)
		}
	}
	if got := mounted(t, held); strings.Count(got, "\n") != 1 {
		t.Errorf("there is more in the mount namespace than the mount:\n%s", got)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(after), dir) {
		t.Errorf("the host sees a mount:\n%s", after)
	}
}

// The main goroutine keeps the first thread for itself: it would not end with a goroutine that is locked to it.
func init() { runtime.LockOSThread() }

// mounted is the mountinfo of a thread in a mount namespace.
func mounted(t *testing.T, mnt *os.File) string {
	t.Helper()
	tid, end := make(chan int), make(chan bool)
	defer close(end)
	// ends with the function; its thread is thrown away
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(mnt.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		<-end
	}()
	b, err := os.ReadFile("/proc/self/task/" + itoa(<-tid) + "/mountinfo")
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func readlink(t *testing.T, name string) string {
	t.Helper()
	to, err := os.Readlink(name)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// A mount that was handed over as it is stays what it is.
func TestCloneOfMount(t *testing.T) {
	needRoot(t)
	t.Parallel()
	m := tmpfs(t)
	c := ns.WithMounts(ns.Mounts{Clones: []int{3}}, []string{"/bin/sh", "-c", "stat -f -c %T /proc/self/fd/3/"}, nil)
	cmd := exec.Command(monitorBin())
	cmd.Args, cmd.Env, cmd.ExtraFiles = c.Argv, c.Env, []*os.File{m}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "tmpfs\n" {
		t.Errorf("%v: %q", err, out)
	}
}
