package ns_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/ns"
)

// A pin left by an earlier try is replaced; nothing but a plain file or a pin is pinned upon.
func TestPinTarget(t *testing.T) {
	needRoot(t)
	t.Parallel()
	s := ns.Spec{UTS: true, Hostname: "a"}
	one, two := hold(t, s), hold(t, s)
	root := t.TempDir()
	dir := filepath.Join(root, "ns")
	path := filepath.Join(dir, "uts")
	t.Cleanup(func() { ns.Unpin(dir, "") })
	for _, h := range []*holder{one, two, two, one} {
		p, err := ns.Pin(h.pid, s.Kinds(), dir, "")
		if err != nil || p.UTS != path {
			t.Fatal(p, err)
		}
		var pinned, real unix.Stat_t
		unix.Stat(path, &pinned)
		unix.Stat("/proc/"+itoa(h.pid)+"/ns/uts", &real)
		if pinned.Ino != real.Ino || pinned.Ino == 0 {
			t.Errorf("pinned %d, want %d", pinned.Ino, real.Ino)
		}
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Count(string(b), root) != 1 {
		t.Error("not exactly one mount")
	}
	if err := ns.Unpin(dir, ""); err != nil {
		t.Error(err)
	}
	os.Mkdir(dir, 0o700)
	victim := filepath.Join(root, "victim")
	os.WriteFile(victim, nil, 0o600)
	os.Symlink(victim, path)
	if _, err := ns.Pin(one.pid, s.Kinds(), dir, ""); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a link: %v", err)
	}
	os.Remove(path)
	os.Mkdir(path, 0o700)
	if _, err := ns.Pin(one.pid, s.Kinds(), dir, ""); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a directory: %v", err)
	}
	os.Remove(path)
	if _, err := ns.Pin(1<<22+1, s.Kinds(), dir, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nobody: %v", err)
	}
	if _, err := ns.Pin(one.pid, []ns.Kind{"mnt"}, dir, ""); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("of an odd kind: %v", err)
	}
}

// /run/netns is made as ip-netns(8) makes it, and only where that can harm nothing.
func TestRunNetns(t *testing.T) {
	needRoot(t)
	if os.Getenv("BERTH_TEST_INSIDE") == "" {
		t.Parallel()
		c := exec.Command("unshare", "-m", "--propagation", "private", os.Args[0], "-test.run", "^TestRunNetns$")
		c.Env = append(os.Environ(), "BERTH_TEST_INSIDE=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	for syscall.Unmount("/run/netns", syscall.MNT_DETACH) == nil { // the host's, in this copy of its mounts
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	s := ns.Spec{Net: true}
	h := hold(t, s)
	for range 2 {
		if _, err := ns.Pin(h.pid, s.Kinds(), "/run/x", "/run/netns/berth-x"); err != nil {
			t.Fatal(err)
		}
		b, _ := os.ReadFile("/proc/self/mountinfo")
		var lines []string
		for _, l := range strings.Split(string(b), "\n") {
			if strings.Contains(l, " /run") {
				lines = append(lines, l)
			}
		}
		if len(lines) != 3 || strings.Contains(lines[0], "shared:") || !strings.Contains(lines[1], " /run/netns rw") ||
			!strings.Contains(lines[1], "shared:") || !strings.Contains(lines[2], " /run/netns/berth-x ") {
			t.Errorf("mounts\n%s", strings.Join(lines, "\n"))
		}
	}
	if err := ns.Unpin("/run/x", "/run/netns/berth-x"); err != nil {
		t.Error(err)
	}
	// Somebody's pins in a plain directory: left as it is.
	syscall.Unmount("/run/netns", syscall.MNT_DETACH)
	os.WriteFile("/run/netns/other", nil, 0o600)
	if _, err := ns.Pin(h.pid, s.Kinds(), "/run/x", "/run/netns/berth-x"); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), " /run/netns ") {
		t.Error("covered a directory in use")
	}
}

// A PID namespace shared by a pod, in a user namespace.
func TestStayInUserNamespace(t *testing.T) {
	needRoot(t)
	t.Parallel()
	m := []ns.IDMap{{ContainerID: 0, HostID: 800000, Size: 65536}}
	s := ns.Spec{Net: true, IPC: true, UTS: true, PID: true, User: true, UIDMap: m, GIDMap: m, Hostname: "u", Stay: true}
	h := hold(t, s)
	if h.said != "ok\n" {
		t.Fatalf("holder said %q", h.said)
	}
	root := t.TempDir()
	dir, netPath := filepath.Join(root, "ns"), filepath.Join(root, "net")
	p, err := ns.Pin(h.pid, s.Kinds(), dir, netPath)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Unpin(dir, netPath)
	if got := in(t, p, "sh", "-c", "echo $$ $(id -u) $(hostname); kill -KILL 1"); !strings.HasSuffix(got, " 0 u") {
		t.Errorf("inside: %q", got)
	}
	if err := syscall.Kill(h.pid, 0); err != nil {
		t.Error(err)
	}
}

// Nobody in a namespace is told of the host by the descriptors of its init.
func TestHolderIsBare(t *testing.T) {
	needRoot(t)
	t.Parallel()
	h := hold(t, ns.Spec{PID: true, Stay: true})
	// It lets go right after it has said "ok".
	var open []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		open = nil
		entries, err := os.ReadDir("/proc/" + itoa(h.pid) + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() > "2" {
				open = append(open, e.Name())
			}
		}
		if open == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if open != nil {
		t.Errorf("open descriptors: %v", open)
	}
	if cwd := link(t, "/proc/"+itoa(h.pid)+"/cwd"); cwd != "/" {
		t.Errorf("works in %s", cwd)
	}
}

func TestWithMounts(t *testing.T) {
	needRoot(t)
	t.Parallel()
	dir := t.TempDir()
	var options []string
	for i, name := range []string{"top", "mid:dle,\\x", "bottom"} {
		lower := filepath.Join(dir, name)
		os.Mkdir(lower, 0o755)
		os.WriteFile(filepath.Join(lower, "who"), []byte(name), 0o644)
		os.WriteFile(filepath.Join(lower, "only"+itoa(i)), nil, 0o644)
		options = append(options, "lowerdir+="+lower)
	}
	target := filepath.Join(dir, "target")
	for _, d := range []string{target, dir + "/upper", dir + "/work"} {
		os.Mkdir(d, 0o755)
	}
	options = append(options, "upperdir="+dir+"/upper", "workdir="+dir+"/work", "volatile")
	runIt := func(options ...string) (string, error) {
		c := ns.WithMounts(ns.Mounts{Overlays: []ns.Overlay{{Target: target, Options: options}}}, []string{"/bin/sh", "-c", `cd "$1" && ls && cat who && env && echo x >new`, "sh", target}, []string{"A=1"})
		cmd := exec.Command(monitorBin())
		cmd.Args, cmd.Env = c.Argv, c.Env
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: c.Clone}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := runIt(options...)
	if err != nil || !strings.HasPrefix(out, "only0\nonly1\nonly2\nwho\ntop") || !strings.Contains(out, "A=1\n") || strings.Contains(out, "BERTH") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(dir + "/upper/new"); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), target) {
		t.Error("the host sees the mount")
	}
	if out, err = runIt("lowerdir+=" + dir + "/missing"); err == nil || !strings.HasPrefix(out, "mount overlay on "+target+": no such file") {
		t.Errorf("%v: %s", err, out)
	}
}
