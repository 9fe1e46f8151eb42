package attack_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What is killed at a step is found by stopping every process of a command at every system call (ptrace(2)), counting, and
// killing the one that makes the Nth. It is done by a copy of this test program, which is a subreaper: what the runtime
// loses becomes its child, and is seen.
const killerEnv = "BERTH_ATTACK_KILLER"

// verdict is what the killer tells: how many calls there were, and whether one was killed.
type verdict struct {
	Calls  int
	Killed string // command of the process that was killed
	Left   []string
	Err    string
}

// killer runs "N BUNDLE ROOT ID COMMAND..." and kills at call N of the command; 0 counts. Then it removes the container.
func killer(args []string) int {
	runtime.LockOSThread() // a tracer is a thread
	time.AfterFunc(2*time.Minute, func() { os.Exit(3) })
	var v verdict
	n, _ := strconv.Atoi(args[0])
	bundle, root, id, argv := args[1], args[2], args[3], args[4:]
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	v.Calls, v.Killed = traced(argv, n, null)
	if out, err := exec.Command(argv[0], "--root", root, "delete", "--force", id).CombinedOutput(); err != nil {
		v.Err = fmt.Sprintf("delete --force: %v: %s", err, out)
	}
	for end := time.Now().Add(patience()); ; time.Sleep(5 * time.Millisecond) {
		var ws unix.WaitStatus
		for {
			if pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WALL, nil); pid <= 0 || err != nil {
				break
			}
		}
		if v.Left = remains(root, id, bundle); len(v.Left) == 0 || time.Now().After(end) {
			break
		}
	}
	json.NewEncoder(os.Stdout).Encode(v)
	return 0
}

// remains lists children of this process, state and mounts.
func remains(root, id, bundle string) (left []string) {
	kids, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	for _, pid := range strings.Fields(string(kids)) {
		comm, _ := os.ReadFile("/proc/" + pid + "/comm")
		stat, _ := os.ReadFile("/proc/" + pid + "/wchan")
		left = append(left, "process "+strings.TrimSpace(string(comm))+" in "+string(stat))
	}
	if _, err := os.Stat(root + "/" + id); err == nil {
		left = append(left, "state")
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), bundle) {
		left = append(left, "mount")
	}
	return left
}

// traced runs a command with all its children traced. Stops that are not of interest let the process go on.
func traced(argv []string, n int, null *os.File) (calls int, killed string) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, null, null
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return 0, err.Error()
	}
	const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEEXEC
	entered := map[int]bool{} // in a system call
	first := true
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return calls, killed
		}
		if ws.Exited() || ws.Signaled() {
			if pid == cmd.Process.Pid {
				release(entered)
				return calls, killed
			}
			delete(entered, pid)
			continue
		}
		if first {
			unix.PtraceSetOptions(pid, options)
			first = false
		}
		sig := 0
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP|0x80:
			if entered[pid] = !entered[pid]; entered[pid] {
				if calls++; calls == n {
					killed = kill(pid)
				}
			}
		case s == unix.SIGTRAP, s == unix.SIGSTOP:
			if _, known := entered[pid]; !known {
				entered[pid] = false
			}
		default:
			sig = int(s)
		}
		unix.PtraceSyscall(pid, sig)
	}
}

// kill kills the process that a thread belongs to.
func kill(tid int) string {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	tgid := tid
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Tgid:"); ok {
			tgid, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	what, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tgid))
	unix.Kill(tgid, unix.SIGKILL)
	words := strings.Split(string(what), "\x00")
	for _, w := range words {
		switch w {
		case "init", "become", "create", "start", "exec", "delete", "run", "kill":
			return w
		}
	}
	return words[0]
}

// release lets the traced that are left go on by themselves: each has to be stopped for that.
func release(pids map[int]bool) {
	for end := time.Now().Add(5 * time.Second); len(pids) > 0 && time.Now().Before(end); {
		for pid := range pids {
			unix.Kill(pid, 0)
			if unix.PtraceDetach(pid) == nil {
				delete(pids, pid)
				continue
			}
			unix.Tgkill(pid, pid, unix.SIGSTOP)
			var ws unix.WaitStatus
			got, err := unix.Wait4(pid, &ws, unix.WALL|unix.WNOHANG, nil)
			switch {
			case err != nil, got == pid && (ws.Exited() || ws.Signaled()):
				delete(pids, pid)
			case got == pid:
				sig := ws.StopSignal()
				if sig == unix.SIGSTOP || sig&0x7f == unix.SIGTRAP {
					sig = 0
				}
				detach(pid, int(sig))
				unix.Kill(pid, unix.SIGCONT)
				delete(pids, pid)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func detach(pid, sig int) {
	unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(pid), 0, uintptr(sig), 0, 0)
}

// TestKill kills each process of each command at each of its system calls, a sample of them unless ATTACK_LONG, and
// demands that delete --force then removes everything.
func TestKill(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, command := range []string{"create", "create-userns", "create-hooks", "start", "exec", "delete"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			sweep(t, command)
		})
	}
}

func sweep(t *testing.T, command string) {
	b := newBox(t, "sleep")
	switch command {
	case "create-userns":
		b.userns()
	case "create-hooks":
		b.hooks()
	}
	total := one(t, b, command, 0).Calls
	least := 20
	if command == "start" { // a dozen where no Go runtime is started for it
		least = 8
	}
	if total < least {
		t.Fatalf("%d system calls seen", total)
	}
	const sample = 14
	steps, kills, missed := 0, 0, 0
	seen := map[string]int{}
	// A run is not like the other: the whole goes on until there was nothing to kill three times in a row.
	for n := 1; missed < 3 || !long(); n++ {
		if !long() {
			if steps == sample {
				break
			}
			n = 1 + steps*total/sample
		}
		steps++
		v := one(t, b, command, n)
		if v.Killed == "" {
			missed++
		} else {
			seen[v.Killed]++
			kills, missed = kills+1, 0
		}
		if len(v.Left) > 0 || v.Err != "" {
			t.Errorf("%s killed at call %d of %d: left %v %s", v.Killed, n, total, v.Left, v.Err)
		}
		if left := b.left(); left != "" {
			t.Errorf("%s killed at call %d of %d: %s", v.Killed, n, total, left)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d system calls in a run by itself; %d runs with a kill each: %v", total, kills, seen)
}

// hooks gives the container what create has besides: hooks on both sides, a filter that has to be compiled, a tmpfs that is
// filled, a terminal's worth of devices.
func (b *box) hooks() {
	probe := bin + "/probe"
	hook := specs.Hook{Path: probe, Args: []string{"probe", "exit", "0"}}
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{hook}, CreateContainer: []specs.Hook{hook}, Poststop: []specs.Hook{hook}}
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"swapon", "reboot"}, Action: specs.ActErrno}}}
	b.write("tmp/file", "copied up")
	b.mount("/tmp", "tmpfs", "tmpfs", "tmpcopyup")
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/also", Type: "c", Major: 1, Minor: 3}}
}

func one(t *testing.T, b *box, command string, n int) verdict {
	t.Helper()
	b.config()
	rt := []string{runtimeBin(), "--root", b.root}
	var argv []string
	switch command {
	case "create", "create-userns", "create-hooks":
		if b.spec.Linux.Seccomp != nil { // another one each time, so that none is cached
			b.spec.Linux.Seccomp.Syscalls[0].Args = []specs.LinuxSeccompArg{{Index: 0, Value: uint64(n), Op: specs.OpEqualTo}}
			b.config()
		}
		argv = append(rt, "create", "--bundle", b.bundle, b.id)
	default:
		if r := b.oci("create", "--bundle", b.bundle, b.id); r.code != 0 {
			t.Fatal(r.err)
		}
		if command != "start" {
			if r := b.oci("start", b.id); r.code != 0 {
				t.Fatal(r.err)
			}
		}
		argv = map[string][]string{"start": append(rt, "start", b.id), "exec": append(rt, "exec", "--detach", b.id, "/probe", "sleep"),
			"delete": append(rt, "delete", "--force", b.id)}[command]
	}
	cmd := exec.Command(os.Args[0], append([]string{strconv.Itoa(n), b.bundle, b.root, b.id}, argv...)...)
	cmd.Env = append(os.Environ(), killerEnv+"=1")
	out, err := cmd.Output()
	var v verdict
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil {
		t.Fatalf("killer: %v: %s", err, out)
	}
	return v
}

// The same by the clock, without anything that slows the processes down.
func TestKillLater(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.config()
	step := 2 * time.Millisecond
	if long() {
		step = 20 * time.Microsecond
	}
	for delay := time.Duration(0); delay < 60*time.Millisecond; delay += step {
		cmd := exec.Command(runtimeBin(), "--root", b.root, "create", "--bundle", b.bundle, b.id)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		cmd.Process.Kill()
		cmd.Wait()
		if r := b.oci("delete", "--force", b.id); r.code != 0 {
			t.Fatalf("after %v: %s", delay, r.err)
		}
		if left := b.left(); left != "" {
			t.Fatalf("after %v: %s", delay, left)
		}
	}
}
