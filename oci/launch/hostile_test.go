package launch_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// canary is a directory of the host that nothing of a container may change.
func canary(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"etc", "etc/passwd", "a"} {
		os.Mkdir(dir+"/"+name, 0o755)
	}
	os.WriteFile(dir+"/file", []byte("host"), 0o600)
	before := snapshot(t, dir)
	return dir, func() {
		t.Helper()
		if after := snapshot(t, dir); after != before {
			t.Errorf("the host's tree changed:\n%s\nbefore:\n%s", after, before)
		}
	}
}

// snapshot is names, types, modes, owners and content of a tree.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		unix.Lstat(p, &st)
		fmt.Fprintf(&s, "%s %o %d:%d", strings.TrimPrefix(p, dir), st.Mode, st.Uid, st.Gid)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			b, _ := os.ReadFile(p)
			fmt.Fprintf(&s, " %q", b)
		}
		s.WriteByte('\n')
		return nil
	})
	return s.String()
}

// forms are what an image may put in a place where a runtime expects a directory or a device.
func forms(host string) map[string]func(path string) error {
	link := func(to string) func(string) error { return func(p string) error { return os.Symlink(to, p) } }
	return map[string]func(string) error{
		"absolute": link(host + "/etc"),
		"climbing": link("../../../../../../../../../../.." + host + "/etc"),
		"loop":     func(p string) error { return os.Symlink(filepath.Base(p), p) },
		"dangling": link("/nowhere/at/all"),
		"fifo":     func(p string) error { return unix.Mkfifo(p, 0o666) },
		"file":     func(p string) error { return os.WriteFile(p, []byte("x"), 0o666) },
		"device":   func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"magic":    link("/proc/self/root/etc"),
	}
}

// TestHostileRoot puts each form in each place. The container may start or be refused; the host must not change, and
// what is mounted must be what was asked for.
func TestHostileRoot(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, place := range []string{"proc", "sys", "dev", "etc", "tmp", "dev/null", "dev/pts", "dev/shm", "cwd", "vol"} {
		t.Run(strings.ReplaceAll(place, "/", "_"), func(t *testing.T) {
			host, check := canary(t)
			for name, make := range forms(host) {
				t.Run(name, func(t *testing.T) { hostile(t, place, make) })
				check()
			}
		})
	}
}

func hostile(t *testing.T, place string, make func(string) error) {
	b := newBox(t, "report")
	path := b.bundle + "/rootfs/" + place
	os.RemoveAll(path)
	if err := make(path); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(place, "dev/") { // nothing of ours on top of the image's /dev
		b.spec.Mounts = append(b.spec.Mounts[:1], b.spec.Mounts[2:]...)
	}
	vol := t.TempDir()
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: vol, Options: []string{"bind"}})
	b.spec.Process.Cwd = "/cwd/here"
	r := b.run()
	if r.code != 0 {
		if strings.Contains(r.err, "panic") || r.err == "" {
			t.Errorf("%d: %q", r.code, r.err)
		}
		return
	}
	seen := decode(t, r.out)
	if cwd := fmt.Sprint(seen["Cwd"]); !strings.HasPrefix(cwd, "/") || strings.Contains(cwd, b.bundle) {
		t.Errorf("cwd %s", cwd)
	}
	mounts := seen["Mounts"].(map[string]any)
	if got := fmt.Sprint(mounts["/proc"]); !strings.HasPrefix(got, "proc ") {
		t.Errorf("/proc is %s", got)
	}
	if got := fmt.Sprint(mounts["/proc/sys"]); !strings.HasPrefix(got, "proc ro") {
		t.Errorf("/proc/sys is %s", got)
	}
}

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

// The runtime's binary can't be written, neither by a container that executes it nor by one that opens it.
func TestOwnBinary(t *testing.T) {
	t.Parallel()
	needRoot(t)
	before := sum(t, runtimeBin())
	for name, args := range map[string][]string{"exec": {"/proc/self/exe", "init", "9"}, "script": {"/evil"}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.write("evil", "#!/proc/self/exe\n")
			os.Chmod(b.bundle+"/rootfs/evil", 0o755)
			b.spec.Process.Args = args
			b.run()
		})
	}
	b := newBox(t, "sleep")
	b.create()
	pid, _ := os.ReadFile(b.bundle + "/pid")
	fd, err := unix.Open("/proc/"+string(pid)+"/exe", unix.O_WRONLY, 0)
	if err == nil {
		unix.Close(fd)
	}
	if err != unix.EROFS && err != unix.ETXTBSY && err != unix.EPERM {
		t.Errorf("open of the waiting init's program for writing: %v", err)
	}
	if sum(t, runtimeBin()) != before {
		t.Error("the runtime's binary changed")
	}
}

func sum(t *testing.T, name string) string {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// No magic link of the runtime's own descriptors serves as working directory (CVE-2024-21626).
func TestWorkdirDescriptor(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for n := range 24 {
		b := newBox(t, "report")
		b.id = fmt.Sprintf("%s-%d", b.id, n)
		b.spec.Linux.CgroupsPath = cgroups + "/" + b.id
		b.spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", n)
		if r := b.run(); r.code == 0 {
			t.Errorf("descriptor %d is a working directory: %s", n, r.out)
		}
	}
}

// TestSwap swaps a mount target between a directory and a link to the host while containers are made on it.
func TestSwap(t *testing.T) {
	t.Parallel()
	host, check := canary(t)
	b := newBox(t, "exit", "0")
	dir := b.bundle + "/rootfs/race"
	os.Mkdir(dir, 0o755)
	os.Symlink(host, b.bundle+"/rootfs/link")
	var stop atomic.Bool
	done := make(chan int)
	// ends when stop is set
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, b.bundle+"/rootfs/link", unix.RENAME_EXCHANGE)
		}
		done <- n
	}()
	for i, dest := range []string{"/race/etc/new", "/race/a/b/c", "/race/file2", "/race", "/race/x"} {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Type: "tmpfs", Source: fmt.Sprint("t", i)})
	}
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/race/file", "/race/etc")
	b.spec.Process.Cwd = "/race/cwd/x"
	for range 15 {
		b.run()
		b.oci("delete", "--force", b.id)
	}
	stop.Store(true)
	t.Logf("%d swaps", <-done)
	check()
}
