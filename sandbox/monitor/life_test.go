package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// The container may be dead long before its runtime program is: its exit is neither lost nor taken for an orphan's.
func TestExitBeforeRuntimeEnds(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			id := "race" + strconv.Itoa(i)
			s := spawn(dir, id, i%4*40, "exit", strconv.Itoa(i))
			if _, _, err := m.Run(t.Context(), s, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 30 {
		select {
		case x := <-m.Exits():
			if want, _ := strconv.Atoi(strings.TrimPrefix(x.ID, "race")); x.Code != want {
				t.Errorf("%+v", x)
			}
			if f := exitFile(t, filepath.Join(dir, x.ID+".exit")); f != x {
				t.Errorf("file %+v, event %+v", f, x)
			}
		case <-time.After(patience):
			t.Fatal("exit missing")
		}
	}
	select {
	case x := <-m.Exits():
		t.Errorf("told twice: %+v", x)
	case <-time.After(50 * time.Millisecond):
	}
}

// An exit file is there, whole, when the process is: a reader that sees the process gone finds it.
func TestExitFileBeforeReap(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	for i := range 20 {
		s := plain(dir, "e"+strconv.Itoa(i), "exit", "5")
		s.OOMFile = filepath.Join(dir, "memory.events")
		os.WriteFile(s.OOMFile, []byte(fmt.Sprintf("low 0\noom 3\noom_kill %d\n", i%2)), 0o600)
		got := run(t, m, s)
		for syscall.Kill(got.Pid, 0) == nil {
		}
		if x := exitFile(t, s.ExitFile); x.Code != 5 || x.OOMKilled != (i%2 == 1) {
			t.Errorf("%+v", x)
		}
		waitExit(t, m, s.ID)
	}
}

// children lists the children of a process.
func children(pid int) []string {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all []string
	for _, f := range tasks {
		b, _ := os.ReadFile(f)
		all = append(all, strings.Fields(string(b))...)
	}
	return all
}

func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := plain(dir, "o", "orphans")
	got := run(t, m, s)
	eventually(t, "orphans came", func() bool { out, _ := readLog(t, s.Log); return out == "left\n" })
	eventually(t, "orphans went", func() bool {
		c := children(m.Pid())
		return len(c) == 1 && c[0] == strconv.Itoa(got.Pid)
	})
}

// The daemon goes away without a word, things happen, another comes.
func TestDaemonComesBack(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	dies, lives := plain(dir, "dies", "gate", "1"), plain(dir, "lives", "tick")
	dies.Stdin = true
	run(t, m, dies)
	pid := run(t, m, lives).Pid
	gate := filepath.Join(dir, "gate")
	exec := spawn(dir, "exec", gate, "exit", "9")
	exec.ExitFile = ""
	c := attach(t, m, "dies")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := m.Run(ctx, exec, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	m.Close()
	if _, ok := <-m.Exits(); ok {
		t.Error("Exits is open")
	}
	if _, err := m.List(t.Context()); !errors.Is(err, monitor.ErrGone) {
		t.Error(err)
	}
	os.WriteFile(gate, nil, 0o600)
	c.in.WriteString("go\n")
	eventually(t, "exit file", func() bool { _, err := os.Stat(dies.ExitFile); return err == nil })
	eventually(t, "one is left", func() bool { return len(children(m.Pid())) == 1 })
	m2, err := monitor.Connect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m2.Close()
	if m2.Pid() != m.Pid() {
		t.Errorf("pid %d, %d", m2.Pid(), m.Pid())
	}
	l, err := m2.List(t.Context())
	if err != nil || len(l) != 3 || l[0].Exit == nil || *l[0].Exit != exitFile(t, dies.ExitFile) ||
		l[1].Pid != pid || l[1].Exit != nil || l[2].Exit == nil || l[2].Exit.Code != 9 {
		t.Errorf("%+v %v", l, err)
	}
	if l, err = m2.List(t.Context()); err != nil || len(l) != 1 {
		t.Errorf("told twice: %+v %v", l, err)
	}
	before, _ := readLog(t, lives.Log)
	eventually(t, "the log goes on", func() bool { out, _ := readLog(t, lives.Log); return len(out) > len(before)+50 })
}

// The newest connection is the daemon; the one before is cut.
func TestNewestDaemon(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	run(t, m, plain(dir, "lives", "sleep"))
	m2, err := monitor.Connect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m2.Close()
	if _, ok := <-m.Exits(); ok {
		t.Error("the replaced connection is open")
	}
	if err = m2.Signal(t.Context(), "lives", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	waitExit(t, m2, "lives")
}

func TestLock(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	if held, err := monitor.Held(dir); err != nil || !held {
		t.Error(held, err)
	}
	if _, err := monitor.Start(t.Context(), monitor.Config{Bin: bin.monitor, Dir: dir}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second monitor: %v", err)
	}
	if _, err := m.List(t.Context()); err != nil {
		t.Errorf("the first after that: %v", err)
	}
	if held, err := monitor.Held(t.TempDir()); err != nil || held {
		t.Error(held, err)
	}
	if _, err := monitor.Connect(t.Context(), t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := monitor.Start(t.Context(), monitor.Config{Bin: "/nowhere", Dir: t.TempDir()}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Killed, a monitor takes nothing with it that a new one would need: its lock is free and a new one starts.
func TestMonitorKilled(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	pid := run(t, m, plain(dir, "left", "sleep")).Pid
	if err := syscall.Kill(m.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-m.Exits(); ok {
		t.Error("an exit from the dead")
	}
	eventually(t, "lock is free", func() bool { held, err := monitor.Held(dir); return err == nil && !held })
	if _, err := monitor.Connect(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// by a goroutine that waits for it: its sockets and its lock are gone before that returns
	eventually(t, "reaped", func() bool { return syscall.Kill(m.Pid(), 0) != nil })
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("its child: %v", err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	m2, err := monitor.Start(t.Context(), monitor.Config{Bin: bin.monitor, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = m2.List(t.Context()); err != nil {
		t.Error(err)
	}
	end(t, m2, dir)
}

func TestShutdownKillsAll(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := plain(dir, "s", "stubborn")
	run(t, m, s)
	o := plain(dir, "o", "orphans")
	run(t, m, o)
	hang := spawn(dir, "h", 0)
	hang.Argv = []string{bin.oci, "hang"}
	result := make(chan error, 1)
	// ends with the runtime
	go func() { _, _, err := m.Run(t.Context(), hang, nil); result <- err }()
	eventually(t, "all are up", func() bool { return len(children(m.Pid())) >= 3 })
	end(t, m, dir)
	if err := <-result; err == nil {
		t.Error("the killed runtime succeeded")
	}
	if x := exitFile(t, s.ExitFile); x.Signal != 9 || x.Code != 137 {
		t.Errorf("%+v", x)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Errorf("second shutdown: %v", err)
	}
}

// A runtime that is killed takes with it what it has made and not named, whoever kills it.
func TestRuntimeKilledWhole(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(t *testing.T, m *monitor.Monitor) error{
		"signal":   func(t *testing.T, m *monitor.Monitor) error { return m.Signal(t.Context(), "l", syscall.SIGKILL) },
		"shutdown": func(t *testing.T, m *monitor.Monitor) error { return m.Shutdown(t.Context()) },
		"timeout":  func(*testing.T, *monitor.Monitor) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, dir := start(t)
			where := t.TempDir()
			s := spawn(dir, "l", 0)
			s.Argv = []string{bin.oci, "litter", where, "3"}
			const processes = 1 + 2 + 4 + 8
			if name == "timeout" {
				s.Timeout = 3000
			}
			result := make(chan error, 1)
			// ends with the runtime
			go func() { _, _, err := m.Run(t.Context(), s, nil); result <- err }()
			var made []string
			eventually(t, "all are up", func() bool { made, _ = filepath.Glob(where + "/*"); return len(made) == processes })
			if err := kill(t, m); err != nil {
				t.Error(err)
			}
			if err := <-result; err == nil {
				t.Error("the killed runtime succeeded")
			}
			eventually(t, "all are gone", func() bool {
				return !slices.ContainsFunc(made, func(f string) bool {
					b, err := os.ReadFile("/proc/" + filepath.Base(f) + "/cmdline")
					return err == nil && strings.Contains(string(b), where)
				})
			})
		})
	}
}

func TestTerminated(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := plain(dir, "t", "tick")
	run(t, m, s)
	syscall.Kill(m.Pid(), syscall.SIGHUP) // nothing
	syscall.Kill(m.Pid(), syscall.SIGPIPE)
	if _, err := m.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(m.Pid(), syscall.SIGTERM)
	eventually(t, "lock is free", func() bool { held, err := monitor.Held(dir); return err == nil && !held })
	if x := exitFile(t, s.ExitFile); x.Signal != 15 {
		t.Errorf("%+v", x)
	}
}

// descriptors counts those of a process, without the Go runtime's own, which come with the first collection of garbage.
func descriptors(pid int) int {
	n := 0
	l, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, f := range l {
		if to, _ := os.Readlink(f); !strings.HasPrefix(to, "anon_inode:") {
			n++
		}
	}
	return n
}

// Nothing stays of what has ended: descriptors, children, table entries.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	fds := func() int { return descriptors(m.Pid()) }
	one := func(i int) {
		id := "l" + strconv.Itoa(i)
		s := plain(dir, id, "cat")
		switch i % 4 {
		case 1:
			s.TTY = true
		case 2:
			s.Argv = []string{"/nowhere"}
		}
		s.Stdin = true
		_, _, err := m.Run(t.Context(), s, nil)
		if (err != nil) != (i%4 == 2) {
			t.Error(err)
		}
		if err != nil {
			return
		}
		c := attach(t, m, id)
		c.in.WriteString("x\n")
		c.line(t)
		if i%3 == 0 {
			c.in.Close()
		}
		m.Signal(t.Context(), id, syscall.SIGKILL)
		waitExit(t, m, id)
	}
	if _, err := m.List(t.Context()); err != nil { // it is up
		t.Fatal(err)
	}
	before := fds()
	for i := range 40 {
		one(i)
	}
	eventually(t, "as many descriptors as before", func() bool { return fds() == before })
	if l, err := m.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%+v %v", l, err)
	}
	if c := children(m.Pid()); len(c) != 0 {
		t.Errorf("children %q", c)
	}
}

// A runtime that is killed for its slowness leaves no container; a failure before it began touches none of an earlier one.
func TestFailedRunKillsItsOwnOnly(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	slow := spawn(dir, "slow", 60_000, "sleep")
	slow.Timeout = 500
	if _, _, err := m.Run(t.Context(), slow, nil); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Error(err)
	}
	eventually(t, "nothing is left", func() bool { return len(children(m.Pid())) == 0 })
	good := spawn(dir, "good", 0, "sleep")
	pid := run(t, m, good).Pid
	bad := good
	bad.ID, bad.Log = "bad", "/proc/nowhere/log"
	if _, _, err := m.Run(t.Context(), bad, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if l, err := m.List(t.Context()); err != nil || len(l) != 1 || l[0].Pid != pid || l[0].Exit != nil {
		t.Errorf("%+v %v", l, err)
	}
	if c := children(m.Pid()); len(c) != 1 {
		t.Errorf("children %q", c)
	}
}

// A pod's namespaces are made by the monitor's own binary, started by the monitor.
func TestHolder(t *testing.T) {
	needRoot(t)
	t.Parallel()
	m, _ := start(t)
	for name, clone := range map[string]uintptr{
		"plain": syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		"user":  syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUSER,
	} {
		s := wire.Spawn{
			ID: name, Path: "/proc/self/exe", Argv: []string{"berth-monitor: ns"}, Env: []string{"BERTH_NET=1", "BERTH_HOSTNAME=h"},
			Clone: clone, PassIO: true,
		}
		if name == "user" {
			s.UIDMap = []wire.IDMap{{ContainerID: 0, HostID: 500000, Size: 65536}}
			s.GIDMap = []wire.IDMap{{ContainerID: 0, HostID: 600000, Size: 65536}}
		}
		inR, inW := pipe(t)
		outR, outW := pipe(t)
		got, _, err := m.Run(t.Context(), s, []*os.File{inR, outW, outW})
		if err != nil {
			t.Fatal(err)
		}
		inR.Close()
		outW.Close()
		b := make([]byte, 100)
		if n, err := outR.Read(b); string(b[:n]) != "ok\n" {
			t.Errorf("%s: said %q, %v", name, b[:n], err)
		}
		mine, _ := os.Readlink("/proc/self/ns/net")
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", got.Pid)); err != nil || its == mine {
			t.Errorf("%s: %s %v", name, its, err)
		}
		if name == "user" {
			if st, err := os.Stat(fmt.Sprintf("/proc/%d/ns", got.Pid)); err != nil || st.Sys().(*syscall.Stat_t).Uid != 500000 {
				t.Error(st, err)
			}
		}
		inW.Close()
		if x := waitExit(t, m, name); x.Code != 0 {
			t.Errorf("%+v", x)
		}
	}
}

// An exit that can't be recorded is not lost: it is told of until it is on record.
func TestExitFileDiskFull(t *testing.T) {
	needRoot(t)
	t.Parallel()
	m, dir := start(t)
	disk := filepath.Join(dir, "disk")
	os.Mkdir(disk, 0o755)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	ballast := filepath.Join(disk, "ballast")
	os.WriteFile(ballast, make([]byte, 4096), 0o600)
	s := plain(dir, "f", "exit", "4")
	s.ExitFile = filepath.Join(disk, "exit.json")
	run(t, m, s)
	waitExit(t, m, "f")
	for range 2 {
		if l, err := m.List(t.Context()); err != nil || len(l) != 1 || l[0].Exit == nil || l[0].Exit.Code != 4 {
			t.Errorf("%+v %v", l, err)
		}
	}
	if _, err := os.Stat(s.ExitFile); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	os.Remove(ballast)
	if _, err := m.List(t.Context()); err != nil { // a try, as every ten seconds
		t.Error(err)
	}
	eventually(t, "exit file", func() bool { _, err := os.Stat(s.ExitFile); return err == nil })
	if x := exitFile(t, s.ExitFile); x.Code != 4 {
		t.Errorf("%+v", x)
	}
	if l, err := m.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%+v %v", l, err)
	}
}

// Whoever does not listen to SIGTERM gets SIGKILL.
func TestTerminatedStubborn(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := plain(dir, "s", "stubborn")
	run(t, m, s)
	eventually(t, "it ignores SIGTERM", func() bool { out, _ := readLog(t, s.Log); return out == "ready\n" })
	begin := time.Now()
	syscall.Kill(m.Pid(), syscall.SIGTERM)
	var err error
	for i := 0; err == nil; i++ { // until it has taken note of the signal
		_, _, err = m.Run(t.Context(), plain(dir, "late"+strconv.Itoa(i), "sleep"), nil)
	}
	if !errors.Is(err, syscall.ESHUTDOWN) {
		t.Errorf("run while ending: %v", err)
	}
	eventually(t, "lock is free", func() bool { held, err := monitor.Held(dir); return err == nil && !held })
	if d := time.Since(begin); d < 5*time.Second {
		t.Errorf("after %v", d)
	}
	if x := exitFile(t, s.ExitFile); x.Signal != 9 {
		t.Errorf("%+v", x)
	}
}
