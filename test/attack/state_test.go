package attack_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Ids are no paths: what would leave the runtime's directory is refused, by each command, and nothing outside is touched.
func TestIDs(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	b := newBox(t, "exit", "0")
	b.config()
	os.MkdirAll(b.root, 0o700)
	os.WriteFile(w.dir+"/state.json", []byte(`{}`), 0o600)
	w.before = w.look()
	for _, id := range []string{"..", ".", "../x", "a/b", "/", w.dir, "../../.." + w.dir, "a\nb", "a b", strings.Repeat("a", 5000), "a\x01", "é", "*"} {
		if r := b.oci("create", "--bundle", b.bundle, id); r.code == 0 {
			t.Errorf("create %q", id)
			b.oci("delete", "--force", id)
		}
		for _, args := range [][]string{{"delete", "--force", id}, {"state", id}, {"kill", id, "KILL"}, {"start", id}} {
			b.civil(b.oci(args...))
		}
	}
	// and a name in the directory that leads out of it
	os.Symlink(w.dir, b.root+"/evil")
	b.oci("delete", "--force", "evil")
	os.Remove(b.root + "/evil")
	w.check()
}

// A pid in the record that has become somebody else's is not signalled: the record says when its process began. The record
// is changed here to name a stranger, as the kernel would by giving the number away.
func TestReusedPid(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	if _, ok := b.start(); !ok {
		t.Fatal("no container")
	}
	stranger := exec.Command("sleep", "600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stranger.Process.Kill(); stranger.Wait() }()
	old := strconv.Itoa(b.pid())
	unix.Kill(b.pid(), unix.SIGKILL)
	changed := 0
	filepath.WalkDir(b.root, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		text, _ := os.ReadFile(p)
		if len(text) > 0 && text[0] == '{' && strings.Contains(string(text), old) {
			changed++
			return os.WriteFile(p, []byte(strings.ReplaceAll(string(text), old, strconv.Itoa(stranger.Process.Pid))), 0o600)
		}
		return nil
	})
	if changed == 0 {
		elsewhere(t, "no record holds the process id")
	}
	b.oci("kill", b.id, "KILL")
	b.oci("exec", b.id, "/probe", "exit", "0")
	b.oci("kill", "--all", b.id, "KILL")
	b.oci("delete", "--force", b.id)
	time.Sleep(20 * time.Millisecond)
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", stranger.Process.Pid)); err != nil || strings.Contains(string(stat), ") Z ") {
		t.Error("a stranger was killed")
	}
}

// elsewhere skips a test that changes records, where the runtime under attack is not known to keep them so.
func elsewhere(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("RUNTIME") == "" {
		t.Fatal(why)
	}
	t.Skip("knows not where this runtime keeps its records: ", why)
}

// Records that are damaged are no crash, and no reason to kill or remove anything else.
func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	for _, text := range []string{"", "{", "null", "[]", `{"pid":1,"init_process_pid":1}`, `{"cgroup":"/"}`, `{"cgroup":"/../../..","pid":-1}`, `{"id":"../../x","pid":"1"}`,
		`{"cgroup":"` + strings.Repeat("x/", 3000) + `"}`, "\x00\x00\x00\x00"} {
		b := newBox(t, "sleep")
		b.config()
		if r := b.oci("create", "--bundle", b.bundle, b.id); r.code != 0 {
			t.Fatal(r.err)
		}
		var kept []byte
		name := b.root + "/" + b.id + "/state.json"
		if kept, _ = os.ReadFile(name); len(kept) == 0 {
			elsewhere(t, name+" is not its record")
		}
		os.WriteFile(name, []byte(text), 0o600)
		for _, args := range [][]string{{"state", b.id}, {"kill", b.id, "TERM"}, {"list"}, {"exec", b.id, "/probe", "exit", "0"}, {"delete", b.id}} {
			r := b.oci(args...)
			if r.late || strings.Contains(r.err, "panic") || strings.Contains(r.err, "goroutine") {
				t.Errorf("%q: %v: %s", text, args, r.err)
			}
		}
		if _, err := os.Stat(filepath.Dir(name)); err == nil {
			os.WriteFile(name, kept, 0o600) // so that what is left can be removed
		} else {
			b.killStrays()
		}
	}
	w.check()
}

// killStrays ends what a container has left when its record was taken for one of nothing.
func (b *box) killStrays() {
	procs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroups + "/" + b.id + "/cgroup.procs")
	for _, p := range procs {
		text, _ := os.ReadFile(p)
		for _, f := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(f)
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	for _, p := range procs {
		for range 200 {
			if err := unix.Rmdir(filepath.Dir(p)); err == nil || err == unix.ENOENT {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// Other users of the host see nothing of a container's state, and can't start it; nothing of ours is in the abstract
// namespace of sockets, which pods on the host's network share (CVE-2020-15257, CVE-2021-41103).
func TestOtherUsers(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	before, _ := os.ReadFile("/proc/net/unix")
	b.config()
	if r := b.oci("create", "--bundle", b.bundle, b.id); r.code != 0 {
		t.Fatal(r.err)
	}
	after, _ := os.ReadFile("/proc/net/unix")
	for _, line := range strings.Split(string(after), "\n") {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") && !strings.Contains(string(before), f[7]) && strings.Contains(f[7], b.id) {
			t.Errorf("abstract socket %s", f[7])
		}
	}
	cmd := exec.Command("find", b.root, "-mindepth", "1")
	cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := cmd.Output()
	if len(out) > 0 {
		t.Errorf("nobody finds %s", out)
	}
}

// A socket for the terminal that nobody serves, or that is none, is an error soon; nothing is left of the container.
func TestConsoleSocket(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	for name, make := range map[string]func(p string) error{
		"file":  func(p string) error { return os.WriteFile(p, nil, 0o666) },
		"fifo":  func(p string) error { return unix.Mkfifo(p, 0o666) },
		"link":  func(p string) error { return os.Symlink(w.dir+"/file", p) },
		"dead":  func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) },
		"loop":  func(p string) error { return os.Symlink(p, p) },
		"gone":  func(string) error { return nil },
		"child": func(p string) error { return os.Mkdir(p, 0o755) },
	} {
		b := newBox(t, "exit", "0")
		b.spec.Process.Terminal = true
		b.config()
		p := filepath.Dir(b.bundle) + "/con"
		if err := make(p); err != nil {
			t.Fatal(err)
		}
		if r := b.oci("create", "--bundle", b.bundle, "--console-socket", p, b.id); r.code == 0 {
			t.Errorf("%s: accepted", name)
		} else {
			b.civil(r)
		}
	}
	w.check()
}
