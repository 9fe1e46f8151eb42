package launch_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ordinary is an argument of exec that package quick does not know, and that changes nothing.
const ordinary = "--preserve-fds=0"

// running makes a container that runs, with a process that has all of what an exec may have.
func running(t *testing.T, change func(*specs.Spec)) *box {
	b := newBox(t, "sleep")
	mask, score := uint32(0o27), 500
	p := b.spec.Process
	p.User = specs.User{UID: 1000, GID: 7, Umask: &mask, AdditionalGids: []uint32{8, 9}}
	p.OOMScoreAdj = &score
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 0, Hard: 4096}, {Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	p.Capabilities.Inheritable = []string{"CAP_NET_BIND_SERVICE"}
	p.Capabilities.Ambient = []string{"CAP_NET_BIND_SERVICE"}
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActErrno}}}
	if change != nil {
		change(b.spec)
	}
	b.create()
	b.must("start", b.id)
	return b
}

// seenBy is what an exec'ed process sees of itself, without what differs from process to process.
func (b *box) seenBy(args ...string) map[string]any {
	b.t.Helper()
	seen := decode(b.t, b.must(args...).out)
	delete(seen, "Pid")
	seen["FDs"] = len(seen["FDs"].([]any)) // the files of outputs are new each time
	status := seen["Status"].(map[string]any)
	for _, k := range []string{"Pid", "NSpid", "NStgid", "NSpgid", "NSsid", "Tgid", "PPid", "nonvoluntary_ctxt_switches", "voluntary_ctxt_switches", "Threads", "SigQ", "State"} {
		delete(status, k)
	}
	for k := range status {
		if strings.HasPrefix(k, "Vm") || strings.HasPrefix(k, "Rss") || strings.HasPrefix(k, "Hugetlb") {
			delete(status, k)
		}
	}
	return seen
}

// Before the Go runtime is there a process becomes what it does with it.
func TestEarlyExecSame(t *testing.T) {
	needEarly(t)
	for name, change := range map[string]func(*specs.Spec){
		"whole": nil,
		"privileges": func(s *specs.Spec) {
			s.Process.User, s.Process.NoNewPrivileges = specs.User{}, false
		},
		"nofilter": func(s *specs.Spec) { s.Linux.Seccomp, s.Process.Env = nil, []string{"HOME=/x", "PATH=/nowhere:/"} },
		"spaces": func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type != "mount" && n.Type != "uts" })
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" || m.Type == "sysfs" || m.Type == "cgroup" })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := running(t, change)
			r, started := b.traced("exec", b.id, "/probe", "report")
			if r.code != 0 || started {
				t.Fatalf("code %d, runtime started %v: %s", r.code, started, r.err)
			}
			early, late := b.seenBy("exec", b.id, "/probe", "report"), b.seenBy("exec", ordinary, b.id, "/probe", "report")
			for k := range late {
				if a, b := fmt.Sprint(early[k]), fmt.Sprint(late[k]); a != b {
					t.Errorf("%s: before the runtime\n%s, after\n%s", k, a, b)
				}
			}
			if len(late) != len(early) {
				t.Errorf("%v, %v", early, late)
			}
			for _, what := range []string{"/proc/self/limits", "/proc/self/oom_score_adj", "/proc/self/cgroup"} {
				if a, b := b.must("exec", b.id, "/probe", "cat", what).out, b.must("exec", ordinary, b.id, "/probe", "cat", what).out; a != b || a == "" {
					t.Errorf("%s: before the runtime\n%s, after\n%s", what, a, b)
				}
			}
			if out := b.must("exec", b.id, "probe", "exit", "0").out; out != "" { // by PATH
				t.Errorf("%q", out)
			}
		})
	}
}

// processFile writes a process.json made of the container's own process.
func (b *box) processFile(change func(*specs.Process)) string {
	b.t.Helper()
	p := *b.spec.Process
	change(&p)
	text, _ := json.Marshal(p)
	if err := os.WriteFile(b.bundle+"/process.json", text, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return b.bundle + "/process.json"
}

// The form in which daemons call exec.
func TestEarlyExecDetached(t *testing.T) {
	needEarly(t)
	b := running(t, nil)
	file := b.processFile(func(p *specs.Process) { p.Args, p.Env = []string{"/probe", "sleep"}, append(p.Env, "QUOTE=\"<&>\"") })
	pids := b.bundle + "/exec.pid"
	r, started := b.traced("--log", b.bundle+"/log", "--log-format", "json", "--systemd-cgroup", "exec", "--detach", "--process", file, "--pid-file", pids,
		"--cgroup", "freezer:sub", b.id)
	if r.code != 0 || started {
		t.Fatalf("code %d, runtime started %v: %s", r.code, started, r.err)
	}
	pid := readPid(t, pids)
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if !strings.Contains(string(env), "QUOTE=\"<&>\"\x00HOME=/home/user\x00") || !strings.Contains(string(group), b.id+"/sub\n") {
		t.Errorf("environment %q, cgroup %s", env, group)
	}
	if left, _ := os.ReadDir(b.bundle); slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".exec") }) {
		t.Errorf("left: %v", left)
	}
	unix.Kill(pid, unix.SIGKILL)
}

// attended begins an exec that is waited for, of a process that sleeps.
func (b *box) attended(shell string) (*exec.Cmd, int) {
	b.t.Helper()
	os.Remove(b.bundle + "/exec.pid")
	cmd := exec.Command("sh", "-c", shell+` exec "$@"`, "sh", runtimeBin(), "--root", b.root, "exec", "--pid-file", b.bundle+"/exec.pid", b.id, "/probe", "sleep")
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(b.bundle + "/exec.pid"); err == nil {
			pid, _ := strconv.Atoi(string(text))
			return cmd, pid
		}
		if time.Now().After(end) {
			b.t.Fatal("no pid file")
		}
	}
}

// Exec waits as before, passes signals on, and ends as the process does, whatever its caller ignores or blocks.
func TestEarlyExecWaits(t *testing.T) {
	needEarly(t)
	b := running(t, nil)
	if r, started := b.traced("exec", b.id, "/probe", "exit", "7"); r.code != 7 || started {
		t.Errorf("code %d, runtime started %v: %s", r.code, started, r.err)
	}
	for _, c := range []struct {
		shell string
		sig   syscall.Signal
		code  int
	}{{"", unix.SIGKILL, 128 + 9}, {"", unix.SIGTERM, 2}, {"trap '' CHLD HUP INT TERM PIPE;", unix.SIGTERM, 2}} {
		cmd, pid := b.attended(c.shell)
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if c.shell != "" && !strings.Contains(string(status), "SigIgn:\t0000000000000000") {
			t.Errorf("%s%s", c.shell, status)
		}
		target := cmd.Process.Pid
		if c.sig == unix.SIGKILL {
			target = pid
		}
		if err := unix.Kill(target, c.sig); err != nil {
			t.Fatal(err)
		}
		// a Go program without handlers ends by SIGTERM with code 2 or by the signal, as the kernel has it
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.code && got != 128+int(c.sig) {
			t.Errorf("%s signal %d: code %d, want %d", c.shell, c.sig, got, c.code)
		}
	}
}

// What is unusual is the ordinary program's, and done as before.
func TestEarlyExecLeaves(t *testing.T) {
	needEarly(t)
	b := running(t, func(s *specs.Spec) { s.Process.User = specs.User{} })
	for name, c := range map[string]struct {
		args []string
		code int
		err  string
	}{
		"not there":   {[]string{"exec", b.id, "/absent"}, 255, "exec failed: exec /absent: no such file or directory"},
		"not in PATH": {[]string{"exec", b.id, "absent"}, 255, "executable file not found in $PATH"},
		"directory":   {[]string{"exec", b.id, "/etc"}, 255, "permission denied"},
		"cwd is made": {[]string{"exec", "--process", b.processFile(func(p *specs.Process) {
			p.Cwd, p.Args = "/new/dir", []string{"/probe", "exit", "3"}
		}), b.id}, 3, ""},
		"environment": {[]string{"exec", "--env", "A=1", b.id, "/probe", "exit", "4"}, 4, ""},
		"no command":  {[]string{"exec", b.id}, 255, "process.args"},
		"no id":       {[]string{"exec", "-d"}, 255, "arguments wanted"},
		"no such":     {[]string{"exec", "none", "x"}, 255, "container does not exist"},
	} {
		r, started := b.traced(c.args...)
		if r.code != c.code || !started || !strings.Contains(r.err, c.err) {
			t.Errorf("%s: code %d, runtime started %v: %s", name, r.code, started, r.err)
		}
	}
	r, started := b.traced("exec", "--detach", "--pid-file", b.bundle+"/p", "--cgroup", "freezer:sub", b.id, "/absent")
	if left, _ := os.ReadDir(b.bundle); r.code != 255 || !started || slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".p") }) {
		t.Errorf("code %d, runtime started %v, left %v: %s", r.code, started, left, r.err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/freezer" + b.spec.Linux.CgroupsPath + "/sub"); err == nil {
		t.Error("the cgroup of a process that never was is left")
	}
	b.must("pause", b.id)
	if r, started := b.traced("exec", b.id, "/probe", "exit", "0"); r.code != 255 || !started || !strings.Contains(r.err, "paused") {
		t.Errorf("paused: code %d, runtime started %v: %s", r.code, started, r.err)
	}
	b.must("resume", b.id)
	b.must("kill", b.id, "KILL")
	b.stopped()
	if r, started := b.traced("exec", b.id, "/probe", "exit", "0"); r.code != 255 || !started || !strings.Contains(r.err, "stopped") {
		t.Errorf("stopped: code %d, runtime started %v: %s", r.code, started, r.err)
	}
}

// An /etc/passwd that is no file, has no end, or no such user.
func TestEarlyExecHome(t *testing.T) {
	needEarly(t)
	for name, passwd := range map[string]func(name string) error{
		"none":    func(name string) error { return nil },
		"fifo":    func(name string) error { return unix.Mkfifo(name, 0o666) },
		"proc":    func(name string) error { return os.Symlink("/proc/kmsg", name) },
		"device":  func(name string) error { return unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"outside": func(name string) error { return os.Symlink("../../../../../../../../etc/passwd", name) },
		"large": func(name string) error {
			return os.WriteFile(name, []byte(strings.Repeat("x\n", 300<<10)+"user:x:1000:1000::/h:\n"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "sleep")
			b.spec.Process.User.UID = 1000
			os.Remove(b.bundle + "/rootfs/etc/passwd")
			if err := passwd(b.bundle + "/rootfs/etc/passwd"); err != nil {
				t.Fatal(err)
			}
			b.create()
			b.must("start", b.id)
			early := b.seenBy("exec", b.id, "/probe", "report")["Env"]
			late := b.seenBy("exec", ordinary, b.id, "/probe", "report")["Env"]
			want := "HOME=/"
			if name == "large" {
				want = "HOME=/h"
			}
			if fmt.Sprint(early) != fmt.Sprint(late) || !slices.Contains(early.([]any), any(want)) {
				t.Errorf("%v, %v", early, late)
			}
		})
	}
}

// mountOf is the id of the mount a file was opened on.
func mountOf(t *testing.T, name string) string {
	t.Helper()
	f, err := os.OpenFile(name, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	for line := range strings.Lines(string(info)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	t.Fatalf("%s: %s", name, info)
	return ""
}

// A runtime that is executed from a mount nobody can write to and that is attached nowhere has its init run from that one; else
// each init runs from another, and none from the host's.
func TestProgramOnce(t *testing.T) {
	needEarly(t)
	b := newBox(t, "sleep")
	b.config()
	fd, err := unix.OpenTree(unix.AT_FDCWD, runtimeBin(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	tree := os.NewFile(uintptr(fd), "tree")
	defer tree.Close()
	init := func(args ...string) string {
		if r := b.command([]*os.File{tree}, args[0], append(args[1:], "--root", b.root, "create", "--bundle", b.bundle, "--pid-file", b.bundle+"/pid", b.id)...); r.code != 0 {
			t.Fatal(r.err)
		}
		defer b.must("delete", "--force", b.id)
		return mountOf(t, fmt.Sprintf("/proc/%d/exe", readPid(t, b.bundle+"/pid")))
	}
	theirs, host := mountOf(t, fmt.Sprintf("/proc/self/fd/%d", fd)), mountOf(t, runtimeBin())
	if got := init("/proc/self/fd/3"); got == theirs || got == host {
		t.Errorf("init runs from a mount that can be written to: %s of %s, %s", got, theirs, host)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		t.Fatal(err)
	}
	if got := init("/proc/self/fd/3"); got != theirs {
		t.Errorf("init runs from mount %s, want %s", got, theirs)
	}
	if got := init(runtimeBin()); got == theirs || got == host {
		t.Errorf("init runs from mount %s", got)
	}
}
