package fault

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox"
)

// swift is how fast a list or status has to be while something hangs: far below any timeout and what the tests hang. A busy
// machine may be slower once; who waits for what hangs is slower each time.
const swift = 10 * time.Second

// atOnce calls f n times side by side, lets what they wait for go on when all have come, and returns the results.
func atOnce(n int, release func(), f func() (string, error)) (ids []string, errs []error) {
	var all, come sync.WaitGroup
	ids, errs = make([]string, n), make([]error, n)
	come.Add(n)
	for i := range n {
		all.Go(func() {
			come.Done()
			ids[i], errs[i] = f()
		})
	}
	come.Wait()
	time.Sleep(300 * time.Millisecond) // from there into the work that they share
	release()
	all.Wait()
	return ids, errs
}

// answersPromptly checks that everything that reads answers at once.
func (n *node) answersPromptly() {
	n.t.Helper()
	var took time.Duration
	for range 5 {
		begin := time.Now()
		n.readAll()
		if took = time.Since(begin); took <= swift {
			return
		}
	}
	n.t.Errorf("lists and statuses take %v", took)
}

func (n *node) readAll() {
	n.t.Helper()
	n.ListContainers(nil)
	for _, item := range n.ListPods(nil) {
		if p, err := n.Pod(item.Id); err == nil {
			if _, err := p.Status(true); err != nil {
				n.t.Error(err)
			}
		}
	}
	for _, item := range n.ListContainers(nil) {
		if c, err := n.Container(item.Id); err == nil {
			n.status(c)
		}
	}
}

// Twenty clients ask for the same pod and then for the same container: one of each is made.
func TestJoin(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	same := func(ids []string, errs []error) string {
		t.Helper()
		for i, err := range errs {
			if err != nil || ids[i] != ids[0] {
				t.Fatalf("%d: %q, %v; want %q", i, ids[i], err, ids[0])
			}
		}
		return ids[0]
	}
	release := n.hang("ADD")
	id := same(atOnce(20, release, func() (string, error) { return n.Run(t.Context(), n.pod("a"), "") }))
	if got := n.script.Calls("ADD"); got != 1 || len(n.ListPods(nil)) != 1 {
		t.Errorf("%d calls of ADD, pods %v", got, n.ListPods(nil))
	}
	p, err := n.Pod(id)
	n.must(err)
	release = n.hang("create")
	same(atOnce(20, release, func() (string, error) { return p.Create(t.Context(), n.container("main", "sleep")) }))
	if got := n.script.Calls("create"); got != 1 || len(n.ListContainers(nil)) != 1 {
		t.Errorf("%d calls of create, containers %v", got, n.ListContainers(nil))
	}
	c, err := n.Container(n.ListContainers(nil)[0].Id)
	n.must(err)
	release = n.hang("start")
	_, errs := atOnce(20, release, func() (string, error) { return "", c.Start(t.Context()) })
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 || n.script.Calls("start") != 1 {
		t.Errorf("start: %v, %d calls", errs, n.script.Calls("start"))
	}
	_, errs = atOnce(20, release, func() (string, error) { return "", p.Remove(t.Context()) })
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		t.Errorf("remove: %v", errs)
	}
	if got := n.script.Calls("DEL"); got != 1 {
		t.Errorf("%d calls of DEL", got)
	}
}

// A client that gives up is told what its work waits for; the work goes on, and the retry gets its result.
func TestDeadlineThenRetry(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	release := n.hang("ADD")
	_, err := n.Run(short(), n.pod("a"), "")
	n.says(err, context.DeadlineExceeded, "run pod fault/a/u-a/0")
	n.reached("ADD", 1) // a busy machine may not have come that far within the first deadline
	_, err = n.Run(short(), n.pod("a"), "")
	n.says(err, context.DeadlineExceeded, "run pod fault/a/u-a/0", `at "attach network"`)
	n.empty()
	n.answersPromptly()
	other := n.pod("a")
	other.Labels = map[string]string{"other": "yes"}
	_, err = n.Run(t.Context(), other, "")
	n.says(err, fs.ErrExist, "fault/a/u-a/0", "in flight")
	time.AfterFunc(50*time.Millisecond, release)
	p := n.run("a")
	if got := n.script.Calls("ADD"); got != 1 {
		t.Errorf("%d calls of ADD", got)
	}
	_, err = n.Run(t.Context(), other, "")
	n.says(err, fs.ErrExist, p.ID()[:12])

	release = n.hang("create")
	_, err = p.Create(short(), n.container("main", "sleep"))
	n.says(err, context.DeadlineExceeded, "create container main/0")
	n.reached("create", 1)
	_, err = p.Create(short(), n.container("main", "sleep"))
	n.says(err, context.DeadlineExceeded, "create container main/0", `at "run fake create"`)
	n.answersPromptly()
	_, err = p.Create(t.Context(), n.container("main", "exit", "1"))
	n.says(err, fs.ErrExist, "in flight")
	time.AfterFunc(50*time.Millisecond, release)
	c := n.create(p, "main", "sleep")
	if got := n.script.Calls("create"); got != 1 {
		t.Errorf("%d calls of create", got)
	}

	release = n.hang("start")
	n.says(c.Start(short()), context.DeadlineExceeded, "start container "+c.ID())
	n.reached("start", 1)
	n.says(c.Start(short()), context.DeadlineExceeded, "start container "+c.ID(), `at "run fake start"`)
	n.answersPromptly()
	time.AfterFunc(50*time.Millisecond, release)
	n.must(c.Start(t.Context()))
	if s := n.status(c); s.State != rt.ContainerState_CONTAINER_RUNNING || n.script.Calls("start") != 1 {
		t.Errorf("%v, %d calls of start", s, n.script.Calls("start"))
	}

	release = n.hang("DEL")
	n.says(p.Stop(short()), context.DeadlineExceeded, "stop pod")
	n.reached("DEL", 1)
	n.says(p.Stop(short()), context.DeadlineExceeded, "stop pod", `at "detach network"`)
	n.says(p.Remove(short()), context.DeadlineExceeded, "remove pod")
	n.answersPromptly()
	if s, err := p.Status(false); err != nil || s.Status.State != rt.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("status while DEL hangs: %v, %v", s, err)
	}
	// Another pod does not mind.
	release()
	n.must(p.Stop(t.Context()))
	n.must(p.Remove(t.Context()))
	if got := n.script.Calls("DEL"); got != 1 {
		t.Errorf("%d calls of DEL", got)
	}
}

// A pod whose network plugin hangs is no obstacle for another pod's whole life.
func TestOthersGoOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a, b := n.run("a"), n.run("b")
	release := n.hang("DEL")
	done := make(chan error, 1)
	go func() { done <- a.Stop(t.Context()) }()
	n.reached("DEL", 1)
	c := n.start(b, "main", "exit", "3")
	if s := n.exited(c); s.ExitCode != 3 {
		t.Errorf("status %v", s)
	}
	n.run("c")
	n.answersPromptly()
	release()
	n.must(<-done)
}

// StopPodSandbox that could not give the network back says so, the pod is not ready, and the retry succeeds.
func TestStopRetried(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.run("a")
	c := n.start(p, "main", "sleep")
	n.set("DEL", "times 2 fail still busy")
	for range 2 {
		n.says(p.Stop(t.Context()), nil, "stop pod "+p.ID()[:12], "detach network", "still busy")
		if s, err := p.Status(false); err != nil || s.Status.State != rt.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("status: %v, %v", s, err)
		}
	}
	if s := n.status(c); s.State != rt.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
		t.Errorf("status %v", s)
	}
	_, err := p.Create(t.Context(), n.container("late", "sleep"))
	n.says(err, sandbox.ErrNotReady)
	n.must(p.Stop(t.Context()))
	n.must(p.Stop(t.Context()))
	n.must(p.Remove(t.Context()))
	n.must(p.Remove(t.Context()))
}

// The runtime hangs while it deletes an ended container: it is done once however many want it, and lists go on.
func TestDeleteHangs(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.run("a")
	release := n.hang("delete")
	c := n.start(p, "main", "exit", "0")
	n.exited(c)
	n.reached("delete", 1)
	n.answersPromptly()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	n.says(c.Remove(ctx), context.DeadlineExceeded, "remove container")
	time.AfterFunc(50*time.Millisecond, release)
	n.must(c.Remove(t.Context()))
	if got := n.script.Calls("delete"); got != 1 {
		t.Errorf("%d calls of delete", got)
	}
}

// An exec whose runtime hangs is over at its timeout, and nothing of it runs later.
func TestExecHangs(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.run("a")
	c := n.start(p, "main", "sleep")
	r, err := c.ExecSync(t.Context(), []string{"say", "hello"}, 0)
	if err != nil || string(r.Stdout) != "hello" {
		t.Fatalf("%v, %v", r, err)
	}
	before := n.left()
	for _, step := range []string{"exec", "unnamed", "execed"} {
		release := n.hang(step)
		for range 20 { // on a busy machine the time may be over before the step
			begin, steps := time.Now(), n.script.Calls(step)
			_, err = c.ExecSync(t.Context(), []string{"sleep"}, 500*time.Millisecond)
			n.says(err, context.DeadlineExceeded)
			if d := time.Since(begin); d > patience {
				t.Errorf("a timeout of 500 ms took %v", d)
			}
			if n.script.Calls(step) > steps {
				break
			}
		}
		n.reached(step, 1)
		n.answersPromptly()
		n.only(before)
		release()
	}
	// On a busy machine the time may be over before the command runs: that is another error.
	for range 20 {
		if _, err = c.ExecSync(t.Context(), []string{"sleep"}, 2*time.Second); !strings.Contains(fmt.Sprint(err), "spawn") {
			break
		}
	}
	n.says(err, context.DeadlineExceeded, "no end within 2s")
	n.set("exec", "fail no such command")
	_, err = c.ExecSync(t.Context(), []string{"x"}, 0)
	n.says(err, nil, "no such command")
	n.set("exec", "")
	n.only(before)
}

// Two stops with different graces: one signal, and the shorter grace ends the container for both.
func TestStopTwice(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.run("a")
	file := n.dir + "/signals"
	c := n.start(p, "main", "count", file)
	n.eventually("the payload is up", func() bool { _, err := os.Stat(file); return err == nil })
	begin := time.Now()
	stopped := make(chan error, 4)
	for range 3 {
		// ends when the container does.
		go func() { stopped <- c.Stop(t.Context(), time.Hour) }()
	}
	n.eventually("the payload was told", func() bool { b, err := os.ReadFile(file); return err == nil && len(b) > 0 })
	stopped <- c.Stop(t.Context(), 300*time.Millisecond)
	for range 4 {
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
	if d := time.Since(begin); d < 300*time.Millisecond {
		t.Errorf("took %v", d)
	}
	b, err := os.ReadFile(file)
	if err != nil || string(b) != "SIGTERM\n" {
		t.Errorf("the payload saw %q, %v", b, err)
	}
	if s := n.status(c); s.ExitCode != 137 || s.Reason != "Error" {
		t.Errorf("status %v", s)
	}
	n.must(c.Stop(t.Context(), time.Hour))
}

// Stop, Exec, Create and Remove at once, again and again: each answers, and in the end nothing is left.
func TestRaces(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for round := range 4 {
		p := n.run("a")
		c := n.start(p, "main", "sleep")
		var all sync.WaitGroup
		for i, f := range []func(){
			func() { c.Stop(t.Context(), 0) },
			func() { c.ExecSync(t.Context(), []string{"say", "x"}, time.Second) },
			func() { c.ExecSync(t.Context(), []string{"sleep"}, 50*time.Millisecond) },
			func() { p.Create(t.Context(), n.container("more", "sleep")) },
			func() { c.Remove(t.Context()) },
			func() { p.Stop(t.Context()) },
			func() { n.must(p.Remove(t.Context())) },
			func() { n.answersPromptly() },
		} {
			all.Add(1)
			go func() {
				defer all.Done()
				time.Sleep(time.Duration((i*7+round*13)%30) * time.Millisecond)
				f()
			}()
		}
		all.Wait()
		n.must(p.Remove(t.Context()))
		n.empty()
		n.nothingLeft()
	}
}

// A pod is removed while a container is being made or started in it.
func TestRemoveWhileCreating(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"create", "created", "start", "started"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p := n.run("a")
			n.hang(step)
			failed := make(chan error, 1)
			go func() {
				id, err := p.Create(t.Context(), n.container("main", "sleep"))
				if c, cerr := n.Container(id); err == nil && cerr == nil {
					err = c.Start(t.Context())
				}
				failed <- err
			}()
			n.reached(step, 1)
			begin := time.Now()
			n.must(p.Remove(t.Context()))
			if d := time.Since(begin); d > patience {
				t.Errorf("took %v", d)
			}
			n.says(<-failed, sandbox.ErrNotReady, "being stopped")
			n.empty()
			n.nothingLeft()
		})
	}
}

// A monitor dies by SIGKILL: containers that ran are killed, the pod is not ready, and all of it can be removed.
func TestMonitorDies(t *testing.T) {
	t.Parallel()
	for _, mode := range pidModes {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p := n.runMode(mode)
			done, c, created := n.start(p, "done", "exit", "7"), n.start(p, "main", "sleep"), n.create(p, "created", "sleep")
			n.exited(done)
			exec := make(chan error, 1)
			go func() { _, err := c.ExecSync(t.Context(), []string{"sleep"}, 0); exec <- err }()
			n.reached("exec", 1)
			n.killMonitor()
			for _, c := range []*sandbox.Container{c, created} {
				n.endedAs(n.exited(c), 137)
			}
			if s := n.status(done); s.ExitCode != 7 {
				t.Errorf("status %v", s)
			}
			n.says(<-exec, nil, "monitor")
			n.eventually("the pod is not ready", func() bool { return n.ListPods(nil)[0].State == rt.PodSandboxState_SANDBOX_NOTREADY })
			_, err := p.Create(t.Context(), n.container("more", "sleep"))
			n.says(err, sandbox.ErrNotReady)
			n.must(p.Stop(t.Context()))
			n.must(p.Remove(t.Context()))
			n.empty()
			n.nothingLeft()
		})
	}
}

// killMonitor kills the monitor of the only pod.
func (l *place) killMonitor() {
	l.t.Helper()
	for _, pid := range l.processes() {
		if strings.HasPrefix(cmdline(pid), "berth-monitor --") {
			proc, err := os.FindProcess(pid)
			l.must(err)
			l.must(proc.Kill())
			return
		}
	}
	l.t.Fatal("there is no monitor")
}

// A monitor dies while its pod or a container is being made: that fails, and nothing is left of it.
func TestMonitorDiesWhileMaking(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"ADD", "create", "created"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			release := n.hang(step)
			failed := make(chan error, 1)
			go func() {
				id, err := n.Run(t.Context(), n.pod("a"), "")
				if p, perr := n.Pod(id); err == nil && perr == nil {
					_, err = p.Create(t.Context(), n.container("main", "sleep"))
				}
				failed <- err
			}()
			n.reached(step, 1)
			n.killMonitor()
			if step == "ADD" {
				time.Sleep(20 * time.Millisecond) // the news arrives before the plugin is done, or after: both are tested
				release()
			}
			n.says(<-failed, nil, "monitor")
			release()
			for _, p := range n.ListPods(nil) {
				p, err := n.Pod(p.Id)
				n.must(err)
				n.must(p.Remove(t.Context()))
			}
			n.empty()
			n.nothingLeft()
			n.run("a")
		})
	}
}
