package launch_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Every option on a file system of the container's own: accepted, and with the effect that mountinfo shows.
func TestMountOptions(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	shown := map[string]string{"ro": "ro", "nosuid": "nosuid", "nodev": "nodev", "noexec": "noexec", "noatime": "noatime", "nodiratime": "nodiratime",
		"nosymfollow": "nosymfollow", "rro": "ro", "rnosuid": "nosuid", "rnodev": "nodev", "rnoexec": "noexec", "rnoatime": "noatime",
		"rnodiratime": "nodiratime", "rnosymfollow": "nosymfollow", "relatime": "relatime", "rrelatime": "relatime", "norelatime": "relatime",
		"shared": "shared:", "rshared": "shared:", "unbindable": "unbindable", "runbindable": "unbindable"}
	pairs := map[string][2]string{"rw": {"ro", "rw"}, "suid": {"nosuid", ""}, "dev": {"nodev", ""}, "exec": {"noexec", ""}, "diratime": {"nodiratime", ""},
		"symfollow": {"nosymfollow", ""}, "atime": {"noatime", "relatime"}, "strictatime": {"noatime", ""}, "nostrictatime": {"strictatime", "relatime"},
		"rrw": {"rro", "rw"}, "rsuid": {"rnosuid", ""}, "rdev": {"rnodev", ""}, "rexec": {"rnoexec", ""}, "rdiratime": {"rnodiratime", ""},
		"rsymfollow": {"rnosymfollow", ""}, "ratime": {"rnoatime", "relatime"}, "rstrictatime": {"rnoatime", ""}, "rnorelatime": {"rnoatime", "relatime"},
		"rnostrictatime": {"rstrictatime", "relatime"}}
	silent := []string{"async", "defaults", "dirsync", "iversion", "lazytime", "loud", "mand", "noiversion", "nolazytime", "nomand", "private",
		"rprivate", "slave", "rslave", "silent", "sync", "tmpcopyup"}
	done := map[string]bool{"bind": true, "rbind": true, "idmap": true, "ridmap": true, "remount": true} // have tests of their own
	add := func(name string, options ...string) {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/m/" + name, Type: "tmpfs", Source: "tmpfs", Options: options})
		done[name] = true
	}
	for name := range shown {
		add(name, name)
	}
	for name, p := range pairs {
		add(name, p[0], name)
	}
	for _, name := range silent {
		add(name, name)
	}
	var f struct{ MountOptions []string }
	if err := jsonOf(b.must("features").out, &f); err != nil {
		t.Fatal(err)
	}
	for _, name := range f.MountOptions {
		if !done[name] {
			t.Errorf("%s is listed by features and not tried", name)
		}
	}
	mounts := b.report()["Mounts"].(map[string]any)
	has := func(name, want string) bool {
		line, _ := mounts["/m/"+name].(string)
		return strings.Contains(strings.NewReplacer(",", " ").Replace(line)+" ", " "+want)
	}
	for name, want := range shown {
		if !has(name, want) {
			t.Errorf("%s: %v, want %s", name, mounts["/m/"+name], want)
		}
	}
	for name, p := range pairs {
		if first := strings.TrimPrefix(p[0], "r"); p[0] != "ro" && p[0] != "rro" && has(name, first+" ") || p[1] != "" && !has(name, p[1]) {
			t.Errorf("%s after %s: %v", name, p[0], mounts["/m/"+name])
		}
	}
	for _, name := range silent {
		if mounts["/m/"+name] == nil {
			t.Errorf("%s is not mounted", name)
		}
	}
}

// tree is a mount of the test's own with another below it.
func tree(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{dir, dir + "/sub"} {
		os.MkdirAll(d, 0o755)
		if err := unix.Mount("berth-test", d, "tmpfs", 0, "mode=755"); err != nil {
			t.Fatal("mount: ", err)
		}
		t.Cleanup(func() { unix.Unmount(d, unix.MNT_DETACH) })
		os.WriteFile(d+"/file", []byte("f"), 0o644)
		os.Chown(d+"/file", 1000, 1000)
	}
	return dir
}

// Options with an r change the whole tree of a bind, those without the top alone; a bind that is not recursive leaves
// out what is below.
func TestRecursiveOptions(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	b := newBox(t, "report")
	words := map[string]string{"ro": "ro", "nosuid": "nosuid", "nodev": "nodev", "noexec": "noexec", "noatime": "noatime", "nodiratime": "nodiratime",
		"nosymfollow": "nosymfollow"}
	for name := range words {
		for _, o := range []string{name, "r" + name} {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/b/" + o, Type: "bind", Source: dir, Options: []string{"rbind", o}})
		}
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/b/flat", Type: "none", Source: dir, Options: []string{"bind"}},
		specs.Mount{Destination: "/b/back", Type: "none", Source: dir, Options: []string{"rbind", "rro", "rrw", "rnosuid", "rsuid"}},
		specs.Mount{Destination: "/b/shared", Type: "none", Source: dir, Options: []string{"rbind", "rshared"}},
		specs.Mount{Destination: "/b/private", Type: "none", Source: dir, Options: []string{"rbind", "rprivate"}})
	mounts := b.report()["Mounts"].(map[string]any)
	has := func(path, want string) bool {
		line, _ := mounts[path].(string)
		return strings.Contains(strings.ReplaceAll(line, ",", " ")+" ", " "+want)
	}
	for name, want := range words {
		if !has("/b/"+name, want+" ") || has("/b/"+name+"/sub", want+" ") {
			t.Errorf("%s: %v, below %v", name, mounts["/b/"+name], mounts["/b/"+name+"/sub"])
		}
		if !has("/b/r"+name, want+" ") || !has("/b/r"+name+"/sub", want+" ") {
			t.Errorf("r%s: %v, below %v", name, mounts["/b/r"+name], mounts["/b/r"+name+"/sub"])
		}
	}
	if mounts["/b/flat"] == nil || mounts["/b/flat/sub"] != nil {
		t.Errorf("bind: %v, below %v", mounts["/b/flat"], mounts["/b/flat/sub"])
	}
	if !has("/b/back/sub", "rw ") || has("/b/back/sub", "nosuid ") {
		t.Errorf("back: %v", mounts["/b/back/sub"])
	}
	if !has("/b/shared/sub", "shared:") || has("/b/private", "shared:") || has("/b/private/sub", "master:") {
		t.Errorf("shared %v, private %v %v", mounts["/b/shared/sub"], mounts["/b/private"], mounts["/b/private/sub"])
	}
}

// remount changes a mount that is there, and of a bind the mount alone.
func TestRemount(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"remount", "ro", "exec"}},
		specs.Mount{Destination: "/proc", Type: "none", Source: "/proc", Options: []string{"bind", "remount", "ro"}})
	mounts := b.report()["Mounts"].(map[string]any)
	if got := fmt.Sprint(mounts["/dev/shm"]); !strings.Contains(got, "tmpfs ro,nosuid,nodev") || strings.Contains(got, "noexec") {
		t.Errorf("/dev/shm: %s", got)
	}
	if got := fmt.Sprint(mounts["/proc"]); !strings.Contains(got, "proc ro,") {
		t.Errorf("/proc: %s", got)
	}
}

// idmap maps the owners of the top, ridmap of the whole tree; by the mount's own mappings or the container's.
// idmapped tries an id-mapped mount of a directory, with the user namespace of a child.
func idmapped(t *testing.T, dir string) bool {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 5000, Size: 10}}
	holder := exec.Command("sleep", "600")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { holder.Process.Kill(); holder.Wait() }()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}) == nil
}

func TestIDMap(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	maps := []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 5000, Size: 10}}
	b := newBox(t, "stat", "/top/file", "/all/file", "/all/sub/file")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/top", Source: dir, Options: []string{"bind", "idmap"}, UIDMappings: maps, GIDMappings: maps},
		specs.Mount{Destination: "/all", Source: dir, Options: []string{"rbind", "ridmap"}, UIDMappings: maps, GIDMappings: maps})
	r := b.run()
	if strings.Contains(r.err, "id-mapped mount") && !idmapped(t, dir) {
		t.Skip("needs Linux 6.3, whose tmpfs can be id-mapped: ", r.err)
	}
	if want := "/top/file 5000 5000\n/all/file 5000 5000\n/all/sub/file 5000 5000\n"; r.out != want {
		t.Errorf("%d %q %q, want %q", r.code, r.out, r.err, want)
	}
	own := newBox(t, "stat", "/x/file")
	own.id += "-own"
	own.spec.Linux.CgroupsPath += "-own"
	all := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	own.spec.Linux.UIDMappings, own.spec.Linux.GIDMappings = all, all
	own.spec.Linux.Namespaces = append(own.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	os.Mkdir(own.bundle+"/rootfs/x", 0o755) // the root's owner is not mapped, so nothing can be made in it
	own.spec.Mounts = append(own.spec.Mounts, specs.Mount{Destination: "/x", Source: dir, Options: []string{"bind", "idmap"}})
	if r := own.run(); r.out != "/x/file 1000 1000\n" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
	none := newBox(t, "sleep")
	none.id += "-none"
	none.spec.Mounts = append(none.spec.Mounts, specs.Mount{Destination: "/x", Source: dir, Options: []string{"bind", "idmap"}})
	none.config()
	if r := none.oci("create", "--bundle", none.bundle, none.id); r.code == 0 || !strings.Contains(r.err, "idmap without mappings") {
		t.Errorf("%d %q", r.code, r.err)
	}
}

// The root's propagation, as the container sees it. What the host's own is decides whether a slave has a master.
func TestRootPropagation(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable", ""} {
		t.Run("x"+word, func(t *testing.T) {
			b := newBox(t, "report")
			root := dir + "/" + word + "x"
			if err := os.CopyFS(root, os.DirFS(b.bundle+"/rootfs")); err != nil {
				t.Fatal(err)
			}
			b.spec.Root.Path = root
			b.spec.Linux.RootfsPropagation = word
			line := fmt.Sprint(b.report()["Mounts"].(map[string]any)["/"])
			for mark, on := range map[string]bool{"shared:": strings.HasSuffix(word, "shared"), "unbindable": strings.HasSuffix(word, "unbindable"),
				"master:": word == "" || strings.HasSuffix(word, "slave") || strings.HasSuffix(word, "shared")} {
				if strings.Contains(line, mark) != on {
					t.Errorf("%q: %s", word, line)
				}
			}
		})
	}
}
