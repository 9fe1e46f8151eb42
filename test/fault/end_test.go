package fault

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A client that stops a container and leaves has stopped it all the same: the grace goes on, and then everything is killed.
func TestStopGoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.run("a")
	file := n.dir + "/signals"
	c := n.start(p, "main", "count", file)
	n.eventually("the payload is up", func() bool { _, err := os.Stat(file); return err == nil })
	begin := time.Now()
	stop := func(grace time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		n.says(c.Stop(ctx, grace), context.DeadlineExceeded, "stop container "+c.ID()[:12])
	}
	stop(time.Hour)
	stop(time.Second)
	stop(time.Hour)
	if s := n.exited(c); s.ExitCode != 137 {
		t.Errorf("status %v", s)
	}
	if d := time.Since(begin); d < time.Second {
		t.Errorf("killed after %v, before its grace was over", d)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "SIGTERM\n" {
		t.Errorf("signals %q, %v", b, err)
	}
}

// stopMonitor sends a signal to the monitor of the only pod and returns what takes it back.
func (l *place) stopMonitor() (goOn func()) {
	l.t.Helper()
	for _, pid := range l.processes() {
		if strings.HasPrefix(cmdline(pid), "berth-monitor --") {
			l.must(syscall.Kill(pid, syscall.SIGSTOP))
			return func() { syscall.Kill(pid, syscall.SIGCONT) }
		}
	}
	l.t.Fatal("there is no monitor")
	return nil
}

// A monitor that does not answer keeps neither its pod from being stopped and removed nor anything else of the daemon.
func TestWedgedMonitor(t *testing.T) {
	t.Parallel()
	for _, mode := range pidModes {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p := n.runMode(mode)
			c := n.start(p, "main", "sleep")
			defer n.stopMonitor()()
			n.answersPromptly()
			n.must(p.Stop(t.Context()))
			n.endedAs(n.status(c), 137)
			n.must(p.Remove(t.Context()))
			n.empty()
			n.nothingLeft()
		})
	}
}

// The same when the daemon was started anew meanwhile; that takes no longer for it, and what needs the monitor waits for it.
func TestWedgedMonitorAfterRestart(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	pod := d.run()
	id := d.start(pod, "main", "sleep")
	goOn := d.stopMonitor()
	var took time.Duration
	for range 5 { // a busy machine may be slow once
		d.kill(syscall.SIGKILL)
		begin := time.Now()
		d.launch()
		if took = time.Since(begin); took <= 4*time.Second {
			break
		}
	}
	if took > 4*time.Second {
		t.Errorf("the daemon needs %v to answer", took)
	}
	said := make(chan error, 1)
	go func() {
		_, err := d.cri.ExecSync(t.Context(), &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"say", "here"}, Timeout: 60})
		said <- err
	}()
	select {
	case err := <-said:
		t.Errorf("exec did not wait for the monitor: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	goOn()
	d.must(<-said)
	defer d.stopMonitor()()
	d.kill(syscall.SIGKILL)
	d.launch()
	_, err := d.cri.StopPodSandbox(t.Context(), &rt.StopPodSandboxRequest{PodSandboxId: pod})
	d.must(err)
	_, err = d.cri.RemovePodSandbox(t.Context(), &rt.RemovePodSandboxRequest{PodSandboxId: pod})
	d.must(err)
	if len(d.pods())+len(d.containers()) > 0 {
		t.Errorf("listed: %v %v", d.pods(), d.containers())
	}
}

// What ended while no daemon was there is told to the first who listens to events, once.
func TestEventsOfDeathsWhileDead(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	pod := d.run()
	gate := d.dir + "/gate"
	early, late := d.start(pod, "early", "exit", "1"), d.start(pod, "late", "exit", "7", gate)
	d.eventually("one has ended", func() bool { return d.status(early).State == rt.ContainerState_CONTAINER_EXITED })
	d.kill(syscall.SIGKILL)
	d.must(os.WriteFile(gate, nil, 0o644))
	d.eventually("the other has ended", func() bool { return len(glob(d.root+"/pods/*/c/*/exit.json")) == 2 })
	d.launch()
	for _, want := range []string{late + " 7 1", ""} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		stream, err := d.cri.GetContainerEvents(ctx, &rt.GetEventsRequest{})
		d.must(err)
		heard := make(chan string, 100)
		go func() {
			defer close(heard)
			for {
				e, err := stream.Recv()
				if err != nil {
					return
				}
				heard <- deathIn(e)
			}
		}()
		// Something new marks the end of what was kept.
		mark := d.start(pod, fmt.Sprintf("mark-%t", want == ""), "sleep")
		var got []string
		for s := range heard {
			if strings.HasPrefix(s, mark) {
				break
			}
			got = append(got, s)
		}
		cancel()
		if strings.Join(got, ",") != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
}

// deathIn tells of an event: whose, and for an end the exit code and how many events of that kind it is for that container.
func deathIn(e *rt.ContainerEventResponse) string {
	if e.ContainerEventType != rt.ContainerEventType_CONTAINER_STOPPED_EVENT {
		return e.ContainerId
	}
	for _, s := range e.ContainersStatuses {
		if s.Id == e.ContainerId && s.FinishedAt != 0 && e.PodSandboxStatus.GetMetadata().GetUid() != "" {
			return fmt.Sprintf("%s %d %d", s.Id, s.ExitCode, s.State-1)
		}
	}
	return e.ContainerId + " without a status"
}
