package conform_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
	"github.com/berth-runtime/berth/test/bundle/seen"
)

func itoa(n int) string { return strconv.Itoa(n) }

// exec runs a report in a container and decodes it.
func (b *box) exec(args ...string) *seen.Process {
	b.Helper()
	r := b.oci(append(append([]string{"exec"}, args...), b.id, "/probe", "report")...)
	if r.code != 0 {
		b.Fatalf("exec %v: %s", args, r)
	}
	return decode(b.T, r.out)
}

// An exec is in the container's namespaces and cgroup, with the container's own process as its model.
func TestExecPlace(t *testing.T) {
	b := newBox(t, "wait")
	b.spec.Process.Env = append(b.spec.Process.Env, "A=1")
	b.started()
	s := b.exec()
	for kind, got := range s.Namespaces {
		want, _ := os.Readlink("/proc/" + itoa(b.pid()) + "/ns/" + kind)
		equal(t, kind, got, want)
	}
	equal(t, "hostname", s.Hostname, "box")
	equal(t, "cwd", s.Cwd, "/")
	if !strings.Contains(strings.Join(s.Env, " "), "A=1") {
		t.Errorf("environment %v", s.Env)
	}
	if !strings.Contains(s.Cgroup, groupPath(b.id)) {
		t.Errorf("cgroup %s", s.Cgroup)
	}
	equal(t, "no_new_privs", s.Status["NoNewPrivs"], "1")
	equal(t, "effective", s.Status["CapEff"], "00000000a80425fb")
	equal(t, "parent is outside", s.Ppid, 0)
	for fd, to := range s.FDs {
		if n, _ := strconv.Atoi(fd); n > 2 {
			t.Errorf("descriptor %s is %s", fd, to)
		}
	}
}

func TestExecFlags(t *testing.T) {
	b := newBox(t, "wait")
	os.Mkdir(b.bundle+"/rootfs/work", 0o777)
	b.started()
	s := b.exec("--cwd", "/work", "--env", "B=2", "--env", "C=3 4", "--user", "1000:100", "--additional-gids", "7", "--additional-gids", "8")
	equal(t, "cwd", s.Cwd, "/work")
	if e := strings.Join(s.Env, "|"); !strings.Contains(e, "B=2|C=3 4") {
		t.Errorf("environment %v", s.Env)
	}
	equal(t, "uid", s.UID, 1000)
	equal(t, "gid", s.GID, 100)
	for _, g := range []int{7, 8} {
		found := false
		for _, have := range s.Groups {
			found = found || have == g
		}
		equal(t, "group "+itoa(g), found, true)
	}
	equal(t, "uid alone", b.exec("--user", "1000").UID, 1000)
	s = b.exec("--cap", "CAP_NET_ADMIN")
	bits, _ := strconv.ParseUint(s.Status["CapEff"], 16, 64)
	equal(t, "CAP_NET_ADMIN", bits>>unix.CAP_NET_ADMIN&1, 1)
	b.refused("exec", "--user", "x", b.id, "/probe", "exit", "0")
	b.refused("exec", "--cwd", "relative", b.id, "/probe", "exit", "0")
}

func TestExecExitCodes(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	for args, want := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 255": 255, "die 15": 128 + 15, "die 9": 128 + 9} {
		if r := b.oci(append([]string{"exec", b.id, "/probe"}, strings.Fields(args)...)...); r.code != want {
			t.Errorf("%s: %s, want %d", args, r, want)
		}
	}
	for _, args := range [][]string{{"/none"}, {"none"}, {"/etc/passwd"}} {
		r := b.refused(append([]string{"exec", b.id}, args...)...)
		if !strings.Contains(r.err, args[0]) {
			t.Errorf("%v: %s", args, r)
		}
	}
	b.refused("exec", b.id)
}

func TestExecDetached(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	name := b.bundle + "/exec.pid"
	f, err := os.Create(b.bundle + "/exec.out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if r := b.with(&exec.Cmd{Stdout: f}, "exec", "--detach", "--pid-file", name, b.id, "/probe", "wait"); r.code != 0 {
		t.Fatal(r)
	}
	text, _ := os.ReadFile(name)
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	b.until("the word up", func() bool { out, _ := os.ReadFile(f.Name()); return strings.Contains(string(out), "up") })
	if !strings.Contains(b.must("ps", b.id).out, itoa(pid)) {
		t.Errorf("ps lacks %d", pid)
	}
	unix.Kill(pid, unix.SIGTERM)
	equal(t, "exit code", b.ended(pid), 7)
	equal(t, "container", b.status(), "running")
}

// --process takes a process document for all of it.
func TestExecProcess(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	umask := uint32(0o27)
	doc := b.json("process.json", &specs.Process{Args: []string{"/probe", "report"}, Cwd: "/tmp", Env: []string{"D=4"},
		User: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{9}, Umask: &umask}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}})
	r := b.oci("exec", "--process", doc, b.id)
	if r.code != 0 {
		t.Fatal(r)
	}
	s := decode(t, r.out)
	equal(t, "cwd", s.Cwd, "/tmp")
	equal(t, "uid", s.UID, 5)
	equal(t, "gid", s.GID, 6)
	equal(t, "umask", s.Umask, 0o27)
	equal(t, "core limit", s.Rlimits["RLIMIT_CORE"], [2]uint64{1, 2})
	equal(t, "bounding set", s.Status["CapBnd"], "0000000000000020")
	equal(t, "effective set", s.Status["CapEff"], "0000000000000000")
	if e := strings.Join(s.Env, " "); !strings.Contains(e, "D=4") || strings.Contains(e, "PATH=/bin:/") {
		t.Errorf("environment %v", s.Env)
	}
	b.refused("exec", "--process", b.json("bad.json", map[string]any{"args": []string{}, "cwd": "/"}), b.id)
	b.refused("exec", "--process", b.bundle+"/missing.json", b.id)
}

// config.md, "Linux Process", oomScoreAdj: a process document of exec is one like any other.
func TestExecProcessOOMScore(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	score := 500
	r := b.must("exec", "--process", b.json("process.json", &specs.Process{Args: []string{"/probe", "report"}, Cwd: "/", OOMScoreAdj: &score}), b.id)
	equal(t, "oom_score_adj", decode(t, r.out).OOM, "500")
}

// A program given without a slash is looked for in the container's PATH.
func TestExecPath(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	if r := b.oci("exec", b.id, "probe", "echo", "found"); r.code != 0 || r.out != "found\n" {
		t.Error(r)
	}
}

// Signals that the runtime gets in the foreground go on to the process.
func TestExecForwardsSignals(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	out, err := os.Create(b.bundle + "/exec.out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(oci, "--root", b.root, "exec", b.id, "/probe", "wait")
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	said := func(word string) {
		b.until("the word "+word, func() bool { text, _ := os.ReadFile(out.Name()); return strings.Contains(string(text), word) })
	}
	said("up")
	cmd.Process.Signal(unix.SIGHUP)
	said("SIGHUP")
	cmd.Process.Signal(unix.SIGTERM)
	cmd.Wait()
	equal(t, "exit code", cmd.ProcessState.ExitCode(), 7)
}

func TestExecStdin(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	r := b.with(&exec.Cmd{Stdin: strings.NewReader("some input")}, "exec", b.id, "/probe", "try", "read:/proc/self/fd/0")
	check(t, r.out, map[string]string{"read:/proc/self/fd/0": "some input"})
}

func TestExecTerminal(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	sock, master := bundle.Console(t)
	doc := b.json("process.json", &specs.Process{Terminal: true, Args: []string{"/probe", "tty"}, Cwd: "/", ConsoleSize: &specs.Box{Height: 12, Width: 34}})
	if r := b.oci("exec", "--detach", "--process", doc, "--console-socket", sock, b.id); r.code != 0 {
		t.Fatal(r)
	}
	got := map[string]any{}
	if err := json.Unmarshal([]byte(bundle.ReadUntil(t, master(), "\n")), &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "leader", got["leader"], any(true))
	equal(t, "foreground", got["foreground"], any(true))
	equal(t, "controlling terminal", got["tty"], any(true))
	equal(t, "size", got["size"], any("12x34"))
	if n, _ := got["name"].(string); !strings.HasPrefix(n, "/dev/pts/") {
		t.Errorf("terminal is %q", n)
	}
}

func TestExecPreservesDescriptors(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	b.file("given", "")
	f, err := os.Open(b.bundle + "/rootfs/given")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n, want := range map[string]bool{"0": false, "1": true} {
		r := b.with(&exec.Cmd{ExtraFiles: []*os.File{f}}, "exec", "--preserve-fds", n, b.id, "/probe", "report")
		_, got := decode(t, r.out).FDs["3"]
		equal(t, "descriptor 3 with --preserve-fds "+n, got, want)
	}
}

// The filter of the container is on what is executed in it as well.
func TestExecSeccomp(t *testing.T) {
	b := newBox(t, "wait")
	b.spec.Linux.Seccomp = deny(specs.ActErrno, nil, "mkdir", "mkdirat")
	b.started()
	r := b.must("exec", b.id, "/probe", "try", "mkdir:/tmp/x")
	check(t, r.out, map[string]string{"mkdir:/tmp/x": "EPERM"})
}
