package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The daemon is killed while a program of a phase is at work: before it has done anything, or when all is done and nobody
// knows yet. The next daemon either serves the object or leaves nothing of it.
func TestKillInPhase(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"ADD", "create", "created", "start", "started", "exec", "execed", "delete", "DEL"} {
		for _, when := range []string{"over before the restart", "going on after the restart"} {
			t.Run(phase+" "+when, func(t *testing.T) {
				t.Parallel()
				d := newDaemon(t)
				release := d.hang(phase)
				walked := make(chan error, 1)
				go func() { walked <- d.walk(context.Background()) }()
				d.reached(phase, 1)
				d.kill(syscall.SIGKILL)
				if err := <-walked; err == nil {
					t.Error("the walk succeeded without a daemon")
				}
				if strings.HasPrefix(when, "over") {
					release()
				}
				begin := time.Now()
				d.launch()
				if took := time.Since(begin); took > patience {
					t.Errorf("the daemon needed %v to answer", took)
				}
				d.pods()
				d.containers()
				release()
				d.single()
				d.must(d.walk(t.Context()))
				if pods, ctrs := d.pods(), d.containers(); len(pods)+len(ctrs) > 0 {
					t.Errorf("listed: %v %v", pods, ctrs)
				}
				d.must(d.walk(t.Context()))
			})
		}
	}
}

// The daemon is killed at arbitrary moments of a life that goes on and on.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	begin := time.Now()
	d.must(d.walk(t.Context()))
	life := time.Since(begin)
	random := rand.New(rand.NewPCG(3, 5))
	for round := range 12 {
		wait := time.Duration(random.Int64N(int64(life)))
		walked := make(chan error, 1)
		go func() { walked <- d.walk(context.Background()) }()
		time.Sleep(wait)
		d.kill(syscall.SIGKILL)
		<-walked
		d.launch()
		if err := d.walk(t.Context()); err != nil {
			t.Fatalf("round %d, killed after %v: %v", round, wait, err)
		}
		d.nothingLeft()
	}
}

// What happens while there is no daemon is known afterwards: exit codes, log lines.
func TestExitsWhileDead(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	pod := d.run()
	gate := d.dir + "/gate"
	codes := map[string]int32{}
	for _, code := range []int32{0, 3, 77} {
		codes[d.start(pod, fmt.Sprint("exit-", code), "exit", fmt.Sprint(code), gate)] = code
	}
	ticks := d.start(pod, "main", "ticks")
	killed := d.start(pod, "killed", "sleep")
	d.kill(syscall.SIGKILL)
	d.must(os.WriteFile(gate, nil, 0o644))
	for _, pid := range d.processes() {
		if line := cmdline(pid); strings.Contains(line, killed) && strings.HasPrefix(line, "fakeoci-container") {
			d.must(syscall.Kill(pid, syscall.SIGKILL))
			codes[killed] = 137
		}
	}
	d.eventually("all have ended", func() bool { return len(glob(d.root+"/pods/*/c/*/exit.json")) == len(codes) })
	d.must(d.logGrows(t.Context()))
	d.launch()
	for id, code := range codes {
		s := d.status(id)
		if s.State != rt.ContainerState_CONTAINER_EXITED || s.ExitCode != code || s.FinishedAt < s.StartedAt || s.StartedAt == 0 {
			t.Errorf("want code %d: %v", code, s)
		}
	}
	if s := d.status(ticks); s.State != rt.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status %v", s)
	}
	d.must(d.logGrows(t.Context()))
	d.single()
	_, err := d.cri.StopContainer(t.Context(), &rt.StopContainerRequest{ContainerId: ticks, Timeout: 60})
	d.must(err)
	b, err := os.ReadFile(d.dir + "/logs/main.log")
	d.must(err)
	want := 1
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[3] != fmt.Sprint(want) {
			t.Fatalf("line %q, want number %d", line, want)
		}
		want++
	}
}

// A plugin that hangs while it gives a half-made pod back keeps neither the daemon from serving nor the name from use.
func TestRestartWithHangingPlugin(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	release := d.hang("ADD")
	go d.walk(context.Background())
	d.reached("ADD", 1)
	d.kill(syscall.SIGKILL)
	del := d.hang("DEL")
	release()
	begin := time.Now()
	d.launch()
	if took := time.Since(begin); took > patience {
		t.Errorf("the daemon needed %v to answer", took)
	}
	d.reached("DEL", 1)
	if pods := d.pods(); len(pods) > 0 {
		t.Errorf("listed: %v", pods)
	}
	pod := d.run()
	d.start(pod, "main", "sleep")
	del()
	d.eventually("only the new pod is left", func() bool { return len(glob(string(d.script)+"/leases/*")) == 1 && len(glob(d.root+"/pods/*")) == 1 })
}

// A monitor that does not answer is waited for, not buried: what it keeps goes on, and is served again when it answers.
func TestSilentMonitor(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	pod := d.run()
	id := d.start(pod, "main", "sleep")
	d.kill(syscall.SIGKILL)
	var monitor int
	for _, pid := range d.processes() {
		if strings.HasPrefix(cmdline(pid), "berth-monitor --") {
			monitor = pid
		}
	}
	d.must(syscall.Kill(monitor, syscall.SIGSTOP))
	defer syscall.Kill(monitor, syscall.SIGCONT)
	d.launch()
	if s := d.status(id); s.State != rt.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status %v", s)
	}
	if pods := d.pods(); len(pods) != 1 || pods[0].State != rt.PodSandboxState_SANDBOX_READY {
		t.Errorf("pods %v", pods)
	}
	d.must(syscall.Kill(monitor, syscall.SIGCONT))
	d.eventually("exec works again", func() bool {
		r, err := d.cri.ExecSync(t.Context(), &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"say", "here"}, Timeout: 5})
		return err == nil && string(r.Stdout) == "here"
	})
	_, err := d.cri.StopContainer(t.Context(), &rt.StopContainerRequest{ContainerId: id, Timeout: 60})
	d.must(err)
	if s := d.status(id); s.ExitCode != 143 {
		t.Errorf("status %v", s)
	}
}

// A monitor that died while there was no daemon.
func TestMonitorDiesWhileDead(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	pod := d.run()
	id := d.start(pod, "main", "sleep")
	d.kill(syscall.SIGKILL)
	d.killMonitor()
	d.launch()
	// A process that was killed may still be about to go: then it is found to be silent first.
	d.eventually("the container has ended", func() bool { return d.status(id).State == rt.ContainerState_CONTAINER_EXITED })
	if s := d.status(id); s.ExitCode != 255 || s.Reason != "Unknown" {
		t.Errorf("status %v", s)
	}
	d.eventually("its pod is not ready", func() bool {
		pods := d.pods()
		return len(pods) == 1 && pods[0].State == rt.PodSandboxState_SANDBOX_NOTREADY
	})
}
