package cgroup_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-runtime/berth/oci/cgroup"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	if _, err := cgroup.Detect(); err != nil {
		t.Skipf("needs cgroups: %v", err)
	}
}

// newGroup makes a group that is gone with the test. Cgroups are the machine's, and process ids those of a namespace: its
// name is one of a kind.
func newGroup(t testing.TB) *cgroup.Group {
	t.Helper()
	needRoot(t)
	top := "/berth-test-" + rand.Text()
	g, err := cgroup.Create(top+"/pod/ctr", cgroup.Cgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		all, err := cgroup.Open(top)
		if err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(all.Kill(ctx), all.Remove(ctx)); err != nil {
			t.Error(err)
		}
		if _, err := cgroup.Open(top); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", top, err)
		}
	})
	return g
}

// spawn starts a program in a group. Go can be born in the cgroup2 directory
// only; the v1 hierarchies are entered by a shell that writes "0" for itself.
func spawn(t testing.TB, g *cgroup.Group, script string) *exec.Cmd {
	t.Helper()
	e, err := g.Entry()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	enter := ""
	for i := range e.Tasks {
		enter += fmt.Sprintf("echo 0 >/proc/self/fd/%d && ", i+3)
	}
	c := exec.Command("/bin/bash", "-c", enter+"echo in && { "+script+"\n}")
	c.ExtraFiles = e.Tasks
	if e.Dir != nil {
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(e.Dir.Fd())}
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatalf("process did not enter: %v", err)
	}
	return c
}

// holds waits until a group has n processes.
func holds(t testing.TB, g *cgroup.Group, n int) {
	t.Helper()
	var procs []int
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var err error
		if procs, err = g.Procs(); err != nil {
			t.Fatal(err)
		}
		if len(procs) == n {
			return
		}
	}
	t.Fatalf("%s holds %v; want %d", g.Path(), procs, n)
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestCreateTwiceRemoveTwice(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	again, err := cgroup.Create(g.Path(), cgroup.Cgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	for name, dir := range again.Dirs() {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 {
		if err := g.Remove(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cgroup.Open(g.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open after Remove: %v", err)
	}
}

func TestPathsRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, p := range []string{"", "/", "//", "/..", "/a/../..", "..", "/a/../b", ".", "a\nb"} {
		if _, err := cgroup.Create(p, cgroup.Cgroupfs); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Create(%q): %v", p, err)
		}
	}
}

func TestBornInGroup(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	c := spawn(t, g, "exec sleep 100")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); f[2] != g.Path() {
			t.Errorf("hierarchy %q: in %s", f[1], f[2])
		}
	}
	procs, err := g.Procs()
	if err != nil || len(procs) != 1 || procs[0] != c.Process.Pid {
		t.Errorf("Procs = %v, %v; want [%d]", procs, err, c.Process.Pid)
	}
}

func TestKillAllDescendants(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	sub, err := g.Sub("exec")
	if err != nil {
		t.Fatal(err)
	}
	// A small fork bomb at rest, and one child that forks as fast as it can.
	spawn(t, g, "for i in 1 2 3 4 5; do sleep 100 & done; while :; do (:); done")
	spawn(t, sub, "sleep 100 & sleep 100")
	if err := g.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if procs, err := g.Procs(); err != nil || len(procs) != 0 {
		t.Errorf("left: %v, %v", procs, err)
	}
	if err := g.Remove(soon(t)); err != nil {
		t.Error(err)
	}
}

// Whoever still comes while a group is destroyed is killed as well.
func TestDestroy(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	spawn(t, g, "sleep 100 & sleep 100; :")
	in := make(chan struct{})
	// ends when the group is gone
	go func() {
		defer close(in)
		for {
			c := exec.Command("/bin/sleep", "100")
			if err := c.Start(); err != nil {
				t.Error(err)
				return
			}
			err := g.Add(c.Process.Pid)
			if err != nil {
				_ = c.Process.Kill()
			}
			_ = c.Wait()
			if err != nil {
				return
			}
		}
	}()
	holds(t, g, 4)
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.Remove(short); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("Remove with processes in it: %v", err)
	}
	if err := cgroup.Destroy(soon(t), g); err != nil {
		t.Error(err)
	}
	<-in
	if _, err := os.Stat(g.Dirs()["memory"]); err == nil {
		t.Error("it is still there")
	}
	if err := cgroup.Destroy(soon(t), g); err != nil {
		t.Errorf("what is gone: %v", err)
	}
}

func TestKillSubOnly(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	main := spawn(t, g, "sleep 100; :")
	sub, err := g.Sub("exec")
	if err != nil {
		t.Fatal(err)
	}
	spawn(t, sub, "sleep 100 & sleep 100; :")
	holds(t, sub, 3)
	holds(t, g, 5)
	if err := sub.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := sub.Remove(soon(t)); err != nil {
		t.Fatal(err)
	}
	procs, err := g.Procs()
	if err != nil || len(procs) != 2 || procs[0] != main.Process.Pid {
		t.Errorf("after killing the sub group: %v, %v; want %d and its child", procs, err, main.Process.Pid)
	}
	if _, err := g.OpenSub("exec"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenSub after Remove: %v", err)
	}
}

// A runtime may leave a hierarchy out: gVisor's makes no group in the cgroup2 beside v1.
func TestSubWhereGroupIs(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	probe, err := g.Sub("probe")
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, d := range probe.Dirs() {
		if d = filepath.Dir(d); !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	if err := probe.Remove(soon(t)); err != nil {
		t.Fatal(err)
	}
	for i, d := range dirs { // one after the other, so that in the end there is none
		if err := os.Remove(d); err != nil {
			t.Fatal(err)
		}
		sub, err := g.Sub("exec")
		if i == len(dirs)-1 {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Sub of a group that is nowhere: %v", err)
			}
			break
		}
		if err != nil {
			t.Fatalf("Sub without %s: %v", d, err)
		}
		if got := sub.Dirs(); len(got) == 0 {
			t.Errorf("directories without %s: %v", d, got)
		}
		if err := sub.Remove(soon(t)); err != nil {
			t.Error(err)
		}
	}
}

func TestFreeze(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	spawn(t, g, "while :; do :; done")
	if err := g.Freeze(soon(t)); err != nil {
		t.Fatal(err)
	}
	if f, err := g.Frozen(); !f || err != nil {
		t.Errorf("Frozen = %v, %v", f, err)
	}
	// Limits of a frozen group change without waiting for anybody.
	start := time.Now()
	if err := g.Set(&cgroup.Resources{Pids: &cgroup.Pids{Limit: ptr[int64](64)}}); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("Set of a frozen group took %v", d)
	}
	if err := g.Thaw(); err != nil {
		t.Error(err)
	}
	if f, _ := g.Frozen(); f {
		t.Error("frozen after Thaw")
	}
	if err := g.Freeze(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(soon(t)); err != nil {
		t.Errorf("kill of a frozen group: %v", err)
	}
}

func TestRemoveBusy(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	c := spawn(t, g, "exec sleep 100")
	if err := g.Remove(soon(t)); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("Remove with a process inside: %v", err)
	}
	if err := c.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("process did not live through Remove: %v", err)
	}
}

func ptr[T any](v T) *T { return &v }

func readIn(t testing.TB, g *cgroup.Group, controller, file string) string {
	t.Helper()
	dir, ok := g.Dirs()[controller]
	if !ok {
		t.Skipf("host has no %s controller", controller)
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// BenchmarkKill is the time from Kill to an empty group of two processes.
func BenchmarkKill(b *testing.B) {
	g := newGroup(b)
	for b.Loop() {
		b.StopTimer()
		sub, err := g.Sub("x")
		if err != nil {
			b.Fatal(err)
		}
		c := spawn(b, sub, "sleep 1000; :")
		b.StartTimer()
		if err := sub.Kill(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = c.Wait()
		if err := sub.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
