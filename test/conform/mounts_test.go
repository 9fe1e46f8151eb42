package conform_test

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
)

// config.md, "Linux mount options": what becomes of them, for a file system and for a bind.
func TestMountOptions(t *testing.T) {
	for option, want := range map[string]string{"ro": "ro", "rw": "rw", "nosuid": "nosuid", "nodev": "nodev", "noexec": "noexec", "noatime": "noatime",
		"nodiratime": "nodiratime", "relatime": "relatime", "nosymfollow": "nosymfollow"} {
		t.Run(option, func(t *testing.T) {
			b := newBox(t, "report")
			dir := b.bundle + "/source"
			os.Mkdir(dir, 0o777)
			b.spec.Mounts = append(b.spec.Mounts, mnt("/t", "tmpfs", option), bind("/b", dir, option))
			s := b.sees()
			for _, at := range []string{"/t", "/b"} {
				if m := s.Mount(at); !m.Has(want) {
					t.Errorf("%s: %+v lacks %s", at, m, want)
				}
			}
		})
	}
}

func TestMountOptionEffects(t *testing.T) {
	b := newBox(t)
	dir := b.bundle + "/source"
	os.Mkdir(dir, 0o777)
	text, _ := os.ReadFile(bin + "/probe")
	if err := bundle.Executable(dir+"/probe", string(text)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	os.Symlink("probe", dir+"/link")
	b.spec.Mounts = append(b.spec.Mounts, bind("/ro", dir, "ro"), bind("/rw", dir), bind("/noexec", dir, "noexec"), bind("/nodev", dir, "nodev"),
		mnt("/size", "tmpfs", "size=4k", "mode=711"))
	b.tries(map[string]string{"write:/ro/x": "EROFS", "write:/rw/x": "ok", "run:/noexec/probe": "EACCES", "run:/rw/probe": "ok",
		"open:/nodev/null": "EACCES", "open:/rw/null": "ok", "stat:/size": "40711 0:0", "write:/size/x": "ok"})
	if !exists(dir + "/x") {
		t.Error("what was written does not arrive")
	}
}

// Recursive attributes hold for what is mounted below the source; plain ones do not.
func TestRecursiveReadonly(t *testing.T) {
	b := newBox(t)
	dir := b.bundle + "/source"
	os.MkdirAll(dir+"/sub", 0o777)
	if err := unix.Mount("sub", dir+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir+"/sub", unix.MNT_DETACH) })
	b.spec.Mounts = append(b.spec.Mounts, bind("/rro", dir, "rro"), bind("/ro", dir, "ro"),
		specs.Mount{Destination: "/flat", Type: "bind", Source: dir, Options: []string{"bind"}})
	b.tries(map[string]string{"write:/rro/x": "EROFS", "write:/rro/sub/x": "EROFS", "write:/ro/x": "EROFS", "write:/ro/sub/y": "ok", "list:/flat/sub": "ok"})
}

// tmpcopyup (runc's) fills a tmpfs with what is below its mount point.
func TestCopyUp(t *testing.T) {
	b := newBox(t)
	os.MkdirAll(b.bundle+"/rootfs/full/dir", 0o755)
	b.file("full/dir/file", "text")
	os.Symlink("dir/file", b.bundle+"/rootfs/full/link")
	os.Chown(b.bundle+"/rootfs/full/dir", 12, 34)
	b.spec.Mounts = append(b.spec.Mounts, mnt("/full", "tmpfs", "tmpcopyup"))
	b.tries(map[string]string{"read:/full/dir/file": "text", "read:/full/link": "text", "link:/full/link": "dir/file", "stat:/full/dir": "40755 12:34",
		"write:/full/new": "ok"})
	if exists(b.bundle + "/rootfs/full/new") {
		t.Error("the tmpfs is not one")
	}
}

// mounts.uidMappings: files of a bind mount have other owners inside (config.md, "POSIX-platform Mounts").
func TestIDMappedMount(t *testing.T) {
	b := newBox(t)
	b.userNamespace()
	dir := b.bundle + "/source"
	os.Mkdir(dir, 0o777)
	os.WriteFile(dir+"/file", nil, 0o644)
	os.Chown(dir+"/file", 11, 22)
	for _, d := range []string{"mapped", "plain"} { // the container's root may not write to its tree
		os.Mkdir(b.bundle+"/rootfs/"+d, 0o755)
	}
	m := bind("/mapped", dir)
	m.UIDMappings, m.GIDMappings = b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	b.spec.Mounts = append(b.spec.Mounts, m, bind("/plain", dir))
	b.tries(map[string]string{"stat:/mapped/file": "100644 11:22", "stat:/plain/file": "100644 65534:65534"})
}

// Mount points that are missing are made, as directories or as files after the source; mounts are in the order listed.
func TestMountPoints(t *testing.T) {
	b := newBox(t)
	file := b.bundle + "/file"
	os.WriteFile(file, []byte("content"), 0o644)
	b.spec.Mounts = append(b.spec.Mounts, bind("/a/b/file", file), mnt("/a/c/dir", "tmpfs"), mnt("/over", "tmpfs"), mnt("/over/under", "tmpfs", "mode=700"),
		mnt("/twice", "tmpfs", "mode=711"), mnt("/twice", "tmpfs", "mode=733"))
	b.tries(map[string]string{"read:/a/b/file": "content", "write:/a/c/dir/x": "ok", "stat:/over/under": "40700 0:0", "stat:/twice": "40733 0:0"})
}

// A link in the container's tree leads nowhere outside of it.
func TestMountPointIsLink(t *testing.T) {
	b := newBox(t)
	outside := b.bundle + "/outside"
	os.Mkdir(outside, 0o755)
	os.Symlink(outside, b.bundle+"/rootfs/link")
	b.spec.Mounts = append(b.spec.Mounts, mnt("/link/here", "tmpfs"))
	b.tries(map[string]string{"write:/link/here/x": "ok"})
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside: %v", left)
	}
}

func TestMountErrors(t *testing.T) {
	for name, m := range map[string]specs.Mount{"missing source": bind("/b", "/no/such/source"), "unknown file system": mnt("/b", "nosuchfs"),
		"unknown option": mnt("/b", "tmpfs", "nosuchoption")} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "report")
			b.spec.Mounts = append(b.spec.Mounts, m)
			if r := b.create(); r.code == 0 {
				t.Error("taken")
			}
		})
	}
}

func TestPropagation(t *testing.T) {
	b := newBox(t, "report")
	dir := b.bundle + "/source"
	os.Mkdir(dir, 0o755)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts, bind("/shared", dir, "rshared"), bind("/slave", dir, "rslave"), bind("/private", dir, "rprivate"),
		mnt("/t", "tmpfs"))
	s := b.sees()
	for at, want := range map[string]string{"/shared": "shared:", "/slave": "master:", "/private": ""} {
		tags := s.Mount(at).Tags
		if want == "" && tags != "" || !strings.Contains(tags, want) {
			t.Errorf("%s: %q, want %q", at, tags, want)
		}
	}
}

// What the container mounts or unmounts stays in it, also where the runtime's "/" is shared.
func TestMountsDoNotLeak(t *testing.T) {
	b := newBox(t, "report")
	b.spec.Mounts = append(b.spec.Mounts, mnt("/leak-"+itoa(os.Getpid()), "tmpfs"))
	b.sees()
	after, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(after), b.bundle) || strings.Contains(string(after), "/leak-") {
		t.Errorf("mounts are left: %s", after)
	}
}

func TestReadonlyRoot(t *testing.T) {
	b := newBox(t)
	b.spec.Root.Readonly = true
	b.spec.Mounts = append(b.spec.Mounts, mnt("/tmp", "tmpfs"))
	b.tries(map[string]string{"write:/x": "EROFS", "write:/etc/passwd": "EROFS", "write:/tmp/x": "ok", "write:/dev/x": "ok"})
}

func TestAbsoluteRoot(t *testing.T) {
	b := newBox(t)
	b.spec.Root.Path = b.bundle + "/rootfs"
	b.tries(map[string]string{"read:/inside": "ok", "list:/proc/1/cwd": "*"})
}

// config-linux.md, "Masked Paths" and "Readonly Paths": files cannot be read, directories are empty, what is missing does
// not matter.
func TestMaskedAndReadonlyPaths(t *testing.T) {
	b := newBox(t)
	os.MkdirAll(b.bundle+"/rootfs/secret/dir", 0o755)
	b.file("secret/dir/file", "x")
	b.file("secret/file", "x")
	os.MkdirAll(b.bundle+"/rootfs/fixed", 0o777)
	b.file("fixed/file", "x")
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret/dir", "/secret/file", "/missing")
	b.spec.Linux.ReadonlyPaths = append(b.spec.Linux.ReadonlyPaths, "/fixed", "/missing")
	b.tries(map[string]string{"list:/secret/dir": "ok", "read:/secret/file": "ok", "write:/secret/dir/x": "EROFS", "write:/fixed/file": "EROFS",
		"read:/fixed/file": "x", "write:/fixed/new": "EROFS", "write:/proc/sys/kernel/domainname": "EROFS", "read:/proc/keys": "ok",
		"list:/sys/firmware": "ok"})
}

// config-linux.md, "Default Devices" and "Dev symbolic links".
func TestDev(t *testing.T) {
	b := newBox(t, "report")
	s := b.sees()
	for name, want := range map[string]string{"null": "20666 0:0 1:3", "zero": "20666 0:0 1:5", "full": "20666 0:0 1:7", "random": "20666 0:0 1:8",
		"urandom": "20666 0:0 1:9", "tty": "20666 0:0 5:0", "fd": "-> /proc/self/fd", "stdin": "-> /proc/self/fd/0", "stdout": "-> /proc/self/fd/1",
		"stderr": "-> /proc/self/fd/2", "ptmx": "-> pts/ptmx"} {
		equal(t, "/dev/"+name, s.Dev[name], want)
	}
	for name := range s.Dev {
		if !strings.Contains(" null zero full random urandom tty fd stdin stdout stderr ptmx pts shm mqueue console core ", " "+name+" ") {
			t.Errorf("/dev/%s", name)
		}
	}
}

func TestDevices(t *testing.T) {
	b := newBox(t, "report")
	mode, uid, gid := os.FileMode(0o640), uint32(3), uint32(4)
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/block", Type: "b", Major: 7, Minor: 99}, {Path: "/dev/pipe", Type: "p"}, {Path: "/dev/sub/deep", Type: "u", Major: 1, Minor: 5}}
	s := b.sees()
	equal(t, "/dev/mine", s.Dev["mine"], "20640 3:4 1:3")
	if d := s.Dev["block"]; !strings.HasSuffix(d, " 7:99") {
		t.Errorf("/dev/block %q", d)
	}
	if d := s.Dev["pipe"]; !strings.HasPrefix(d, "10") {
		t.Errorf("/dev/pipe %q", d)
	}
	if s.Dev["sub"] == "" {
		t.Error("no /dev/sub")
	}
}

// The file systems every container has: types, and that /proc is of the container's own PID namespace.
func TestFilesystems(t *testing.T) {
	b := newBox(t, "report")
	s := b.sees()
	for at, want := range map[string]string{"/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue", "/sys": "sysfs"} {
		equal(t, at, s.Mount(at).Type, want)
	}
	for _, o := range []string{"nosuid", "nodev", "noexec"} {
		if !s.Mount("/proc").Has(o) {
			t.Errorf("/proc lacks %s: %+v", o, s.Mount("/proc"))
		}
	}
	if !s.Mount("/sys").Has("ro") {
		t.Errorf("/sys: %+v", s.Mount("/sys"))
	}
	equal(t, "pid", s.Pid, 1)
	equal(t, "name of pid 1", s.Status["Name"], "probe")
	for _, m := range s.Mounts { // nothing of the host's tree is to be seen
		if m.At != "/" && strings.HasPrefix(m.At, b.bundle) {
			t.Errorf("%+v", m)
		}
	}
}

// A cgroup mount shows the container's own hierarchies, read-only where asked for.
func TestCgroupMount(t *testing.T) {
	b := newBox(t, "report")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "cgroup"})
	b.spec.Mounts = append(b.spec.Mounts, mnt("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"))
	s := b.sees()
	seen := 0
	for _, m := range s.Mounts {
		if strings.HasPrefix(m.At, "/sys/fs/cgroup") && (m.Type == "cgroup" || m.Type == "cgroup2") {
			seen++
			if !m.Has("ro") {
				t.Errorf("%+v", m)
			}
		}
	}
	if seen == 0 {
		t.Error("no cgroup mount")
	}
}
