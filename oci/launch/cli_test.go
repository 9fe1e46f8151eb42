package launch_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
)

// pty makes a terminal of the test's own: what a person would sit at.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// talk is a runtime in the foreground at a terminal.
type talk struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	slave  *os.File
	lines  *bufio.Reader
}

func (b *box) talk(args ...string) *talk {
	b.t.Helper()
	master, slave := pty(b.t)
	unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 21, Col: 77})
	cmd := exec.Command(runtimeBin(), append([]string{"--root", b.root}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	master.SetReadDeadline(time.Now().Add(time.Minute))
	return &talk{b.t, cmd, master, slave, bufio.NewReader(master)}
}

// say writes a line and reads until the answer comes.
func (k *talk) say(text, want string) {
	k.t.Helper()
	fmt.Fprintf(k.master, "%s\r", text)
	for seen := ""; ; {
		line, err := k.lines.ReadString('\n')
		if seen += line; strings.Contains(line, want) {
			return
		}
		if err != nil {
			k.t.Fatalf("%v after %q, want %q", err, seen, want)
		}
	}
}

// conversation is what a terminal has to be good for: input, output, the window's size when it changes, the exit code,
// and in the end the caller's terminal as it was.
func (k *talk) conversation() {
	k.t.Helper()
	k.say("a", "got a 21 77")
	unix.IoctlSetWinsize(int(k.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 22, Col: 78})
	for end := time.Now().Add(time.Minute); ; { // the signal goes its own way
		fmt.Fprintf(k.master, "b\r")
		line, err := k.lines.ReadString('\n')
		if strings.Contains(line, "got b 22 78") {
			break
		}
		if err != nil || time.Now().After(end) {
			k.t.Fatalf("%v, %q", err, line)
		}
	}
	fmt.Fprintf(k.master, "end\r")
	k.cmd.Wait()
	if code := k.cmd.ProcessState.ExitCode(); code != 5 {
		k.t.Errorf("exit code %d, want 5", code)
	}
	if s, err := unix.IoctlGetTermios(int(k.slave.Fd()), unix.TCGETS); err != nil || s.Lflag&unix.ECHO == 0 {
		k.t.Errorf("the terminal is left raw: %+v, %v", s, err)
	}
}

// run and exec show the container's terminal on the caller's when there is no console socket.
func TestForegroundTerminal(t *testing.T) {
	t.Parallel()
	t.Run("run", func(t *testing.T) {
		b := newBox(t, "talk")
		b.spec.Process.Terminal = true
		b.config()
		b.talk("run", "--bundle", b.bundle, b.id).conversation()
	})
	t.Run("exec", func(t *testing.T) {
		b := newBox(t, "sleep")
		b.create()
		b.must("start", b.id)
		b.talk("exec", "-t", b.id, "/probe", "talk").conversation()
	})
	b := newBox(t, "sleep")
	b.create()
	if r := b.oci("exec", "-d", "-t", b.id, "/probe", "talk"); r.code != 255 || !strings.Contains(r.err, "without setting console socket") {
		t.Errorf("detached: %d %q", r.code, r.err)
	}
}

// A terminal that nobody sits at: input and output are pipes or files.
func TestForegroundTerminalWithoutOne(t *testing.T) {
	t.Parallel()
	b := newBox(t, "tty")
	b.spec.Process.Terminal = true
	b.config()
	r := b.command(nil, "setsid", "--wait", runtimeBin(), "--root", b.root, "run", "--bundle", b.bundle, b.id)
	if r.code != 0 || !strings.Contains(r.out, `"leader":true`) || strings.Contains(r.out, "\r") {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
}

func TestPidfdSocket(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.config()
	check := func(pidfd *os.File, want int) {
		t.Helper()
		defer pidfd.Close()
		text, _ := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
		if !strings.Contains(string(text), fmt.Sprintf("Pid:\t%d\n", want)) {
			t.Errorf("pidfd of another process than %d:\n%s", want, text)
		}
	}
	sock, received := bundle.Console(t)
	b.must("create", "--pidfd-socket", sock, "--pid-file", b.bundle+"/pid", "--bundle", b.bundle, b.id)
	check(received(), readPid(t, b.bundle+"/pid"))
	b.must("start", b.id)
	sock, received = bundle.Console(t)
	b.must("exec", "--detach", "--pidfd-socket", sock, "--pid-file", b.bundle+"/exec", b.id, "/probe", "sleep")
	check(received(), readPid(t, b.bundle+"/exec"))
}

func readPid(t *testing.T, name string) int {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Callers of runtimes tell errors apart by their texts and codes; these are the ones they look for.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	b := newBox(t, "exit", "0")
	for _, command := range []string{"start", "state", "kill", "delete", "ps", "pause", "resume", "update", "events"} {
		if r := b.oci(command, "none"); r.code != 1 || !strings.Contains(r.err, "container does not exist") {
			t.Errorf("%s of none: %d %q", command, r.code, r.err)
		}
	}
	if r := b.oci("exec", "none", "true"); r.code != 255 || !strings.Contains(r.err, "container does not exist") {
		t.Errorf("exec in none: %d %q", r.code, r.err)
	}
	if r := b.oci("delete", "--force", "none"); r.code != 0 {
		t.Errorf("forced delete of none: %d %q", r.code, r.err)
	}
	b.create()
	expect := func(want string, args ...string) {
		t.Helper()
		r := b.oci(args...)
		if code := map[bool]int{true: 255, false: 1}[args[0] == "exec"]; r.code != code || !strings.Contains(r.err, want) {
			t.Errorf("%v: %d %q, want %q", args, r.code, r.err, want)
		}
	}
	expect("container with given ID already exists", "create", "--bundle", b.bundle, b.id)
	expect("that is not stopped: created", "delete", b.id)
	expect("container not paused", "resume", b.id)
	expect("unknown signal", "kill", b.id, "WHAT")
	b.must("pause", b.id)
	expect("cannot exec in a paused container (use --ignore-paused to override)", "exec", b.id, "/probe", "exit", "0")
	b.must("resume", b.id)
	b.must("start", b.id)
	for end := time.Now().Add(time.Minute); !strings.Contains(b.must("state", b.id).out, "stopped") && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	expect("cannot start a container that has stopped", "start", b.id)
	expect("container not running", "kill", b.id, "TERM")
	expect("container not running", "pause", b.id)
	expect("cannot exec in a stopped container", "exec", b.id, "/probe", "exit", "0")
	if r := b.oci("what"); r.code != 1 {
		t.Errorf("unknown command: %d", r.code)
	}
}

// An exec into a paused container waits there until it is resumed.
func TestExecIgnorePaused(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	b.must("start", b.id)
	b.must("pause", b.id)
	done := make(chan result, 1)
	go func() { done <- b.oci("exec", "--ignore-paused", b.id, "/probe", "exit", "9") }()
	b.must("resume", b.id)
	if r := <-done; r.code != 9 {
		t.Errorf("%d %q", r.code, r.err)
	}
}

func TestPs(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	pid := readPid(t, b.bundle+"/pid")
	var pids []int
	if err := json.Unmarshal([]byte(b.must("ps", "--format", "json", b.id).out), &pids); err != nil || len(pids) != 1 || pids[0] != pid {
		t.Errorf("%v %v, want %d", pids, err, pid)
	}
	lines := strings.Split(strings.TrimSpace(b.must("ps", b.id, "-o", "pid,comm").out), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "PID") || strings.Fields(lines[1])[0] != strconv.Itoa(pid) {
		t.Errorf("%q", lines)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	var e struct {
		Type, ID string
		Data     struct {
			Pids   struct{ Current int }
			Memory struct{ Usage struct{ Usage int } }
		}
	}
	if err := json.Unmarshal([]byte(b.must("events", "--stats", b.id).out), &e); err != nil || e.Type != "stats" || e.ID != b.id || e.Data.Pids.Current < 1 ||
		e.Data.Memory.Usage.Usage == 0 {
		t.Errorf("%+v %v", e, err)
	}
	cmd := exec.Command(runtimeBin(), "--root", b.root, "events", "--interval", "20ms", b.id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() }).Stop()
	lines := bufio.NewScanner(out)
	if !lines.Scan() { // it has begun while the container was there
		t.Errorf("no event: %v", lines.Err())
	}
	b.must("kill", b.id, "KILL")
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("events of a container that ends: %v", err)
	}
}

func TestUpdateFlags(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	b.must("update", "--memory", "64M", "--memory-reservation", "32m", "--cpu-quota", "20000", "--cpu-period", "50000", "--cpu-share", "512",
		"--pids-limit", "55", "--cpu-burst", "1000", b.id)
	for file, want := range map[string]string{"memory/%s/memory.limit_in_bytes": "67108864", "memory/%s/memory.soft_limit_in_bytes": "33554432",
		"cpu/%s/cpu.cfs_quota_us": "20000", "cpu/%s/cpu.cfs_period_us": "50000", "cpu/%s/cpu.shares": "512", "pids/%s/pids.max": "55",
		"cpu/%s/cpu.cfs_burst_us": "1000"} {
		name := "/sys/fs/cgroup/" + fmt.Sprintf(file, cgroups[1:]+"/"+b.id)
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) != want {
			t.Errorf("%s: %s, want %s", name, text, want)
		}
	}
	for _, bad := range [][]string{{"--memory", "x"}, {"--pids-limit", "1.5"}, {"--l3-cache-schema", "L3:0=f"}, {"--blkio-weight", "70000"}} {
		if r := b.oci(append(append([]string{"update"}, bad...), b.id)...); r.code != 1 {
			t.Errorf("%v: %d", bad, r.code)
		}
	}
}

// run and create say so when a poststart hook ends badly, and the container is stopped; poststop hooks run in the end,
// also of a create that a hook has ended.
func TestPoststartFails(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	log := t.TempDir() + "/log"
	stop := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >> " + log}}}
	b.spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/false"}}, Poststop: stop}
	b.create()
	if r := b.oci("start", b.id); r.code == 0 || !strings.Contains(r.err, "poststart: hook /bin/false") {
		t.Errorf("%d %q", r.code, r.err)
	}
	for end := time.Now().Add(time.Minute); !strings.Contains(b.must("state", b.id).out, "stopped"); {
		if time.Now().After(end) {
			t.Fatal("it runs on")
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.must("delete", b.id)
	if text, _ := os.ReadFile(log); strings.Count(string(text), `"status":"stopped"`) != 1 {
		t.Errorf("poststop: %q", text)
	}
	os.Remove(log)
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}, Poststop: stop}
	b.config()
	if r := b.oci("create", "--bundle", b.bundle, b.id); r.code == 0 {
		t.Error("created")
	}
	if text, _ := os.ReadFile(log); strings.Count(string(text), `"status":"stopped"`) != 1 {
		t.Errorf("poststop of a create that a hook has ended: %q", text)
	}
}

// startContainer hooks are programs of the container: its root, its namespaces, after start and before the program.
func TestStartContainerHook(t *testing.T) {
	t.Parallel()
	b := newBox(t, "cat", "/tmp/seen")
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/probe", Args: []string{"probe", "hook", "/tmp/seen"}, Env: []string{"A=b"}},
		{Path: "/probe", Args: []string{"probe", "hook", "/tmp/seen"}}}}
	b.config()
	b.must("create", "--bundle", b.bundle, b.id)
	if _, err := os.Stat(b.bundle + "/rootfs/tmp/seen"); err == nil {
		t.Error("the hook ran before start")
	}
	b.must("start", b.id)
	var text []byte
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		text, _ = os.ReadFile(b.bundle + "/rootfs/tmp/seen")
		if strings.Count(string(text), "\n") >= 2 || time.Now().After(end) {
			break
		}
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", text)
	}
	for i, env := range []string{"A=b", ""} {
		var seen struct {
			State    specs.State
			Env      string
			Pid      int
			Hostname string
			Cwd      string
		}
		if err := json.Unmarshal([]byte(lines[i]), &seen); err != nil {
			t.Fatal(err)
		}
		if seen.State.ID != b.id || seen.State.Status != "created" || seen.Env != env || seen.Hostname != "box" || seen.Cwd != "/" || seen.Pid > 50 {
			t.Errorf("%+v", seen)
		}
	}
	fails := newBox(t, "sleep")
	fails.id += "-fails"
	fails.spec.Linux.CgroupsPath += "-fails"
	fails.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/probe", Args: []string{"probe", "exit", "3"}}}}
	fails.create()
	if r := fails.oci("start", fails.id); r.code == 0 || !strings.Contains(r.err, "hook /probe") {
		t.Errorf("%d %q", r.code, r.err)
	}
}

// Sockets of a service manager come before descriptors to preserve, with the variables that tell of them.
func TestListenFDs(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	b.config()
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	script := `LISTEN_FDS=2 LISTEN_PID=$$ exec "$@"`
	r := b.command([]*os.File{f, f, f}, "sh", "-c", script, "sh", runtimeBin(), "--root", b.root, "run", "--preserve-fds", "1", "--bundle", b.bundle, b.id)
	if r.code != 0 {
		t.Fatalf("%d %q", r.code, r.err)
	}
	seen := decode(t, r.out)
	if env := fmt.Sprint(seen["Env"]); !strings.Contains(env, "LISTEN_FDS=2 LISTEN_PID=1") || len(seen["FDs"].([]any)) != 6 {
		t.Errorf("env %s, descriptors %v", env, seen["FDs"])
	}
	r = b.command([]*os.File{f, f}, "sh", "-c", `LISTEN_FDS=2 LISTEN_PID=1 exec "$@"`, "sh", runtimeBin(), "--root", b.root, "run", "--bundle", b.bundle, b.id)
	if seen := decode(t, r.out); len(seen["FDs"].([]any)) != 3 {
		t.Errorf("meant for another process: %v", seen["FDs"])
	}
}
