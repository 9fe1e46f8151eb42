package fault

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// beginStop has a client begin to stop a container that does not heed SIGTERM, and kills the daemon once the signal is on record.
func (d *daemon) beginStop(id, signals string, grace time.Duration) {
	d.t.Helper()
	d.eventually("the payload is up", func() bool { _, err := os.Stat(signals); return err == nil })
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		d.cri.StopContainer(context.Background(), &rt.StopContainerRequest{ContainerId: id, Timeout: int64(grace / time.Second)})
	}()
	d.eventually("the stop is on record", func() bool {
		b, _ := os.ReadFile(glob(d.root + "/pods/*/c/" + id + "/container.json")[0])
		return strings.Contains(string(b), `"signaled":true`)
	})
	d.kill(syscall.SIGKILL)
	<-gone
}

// The grace of a stop goes on while the daemon is dead: the next one keeps the deadline, whether or not anybody asks again, and
// whatever time who asks again gives it.
func TestStopOutlivesDaemon(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		grace, dead  time.Duration
		again, never bool // asked again; the signal was never sent
		signals      string
	}{
		{"in time", 5 * time.Second, 0, false, false, "SIGTERM\n"},
		{"too late", time.Second, 1100 * time.Millisecond, false, false, "SIGTERM\n"},
		{"asked again", 5 * time.Second, 0, true, false, "SIGTERM\n"},
		{"not signaled", 20 * time.Second, 0, false, true, "SIGTERM\nSIGTERM\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t)
			file := d.dir + "/signals"
			id := d.start(d.run(), "main", "count", file)
			begin := time.Now()
			d.beginStop(id, file, tt.grace)
			if tt.never {
				d.edit(id, `"signaled":true`, `"signaled":false`)
			}
			time.Sleep(tt.dead)
			d.launch()
			if tt.again {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := d.cri.StopContainer(ctx, &rt.StopContainerRequest{ContainerId: id, Timeout: 3600})
				d.must(err)
			}
			d.eventually("the container is killed", func() bool { return d.status(id).State == rt.ContainerState_CONTAINER_EXITED })
			if took := time.Since(begin); took < tt.grace {
				t.Errorf("killed after %v, before its grace was over", took)
			}
			if s := d.status(id); s.ExitCode != 137 {
				t.Errorf("status %v", s)
			}
			if b, err := os.ReadFile(file); err != nil || string(b) != tt.signals {
				t.Errorf("signals %q, %v", b, err)
			}
		})
	}
}

// edit changes a container's record as a daemon that was killed at another moment would have left it.
func (d *daemon) edit(id, old, repl string) {
	d.t.Helper()
	file := glob(d.root + "/pods/*/c/" + id + "/container.json")[0]
	b, err := os.ReadFile(file)
	d.must(err)
	if !strings.Contains(string(b), old) {
		d.t.Fatalf("no %s in %s", old, b)
	}
	d.must(os.WriteFile(file, []byte(strings.Replace(string(b), old, repl, 1)), 0o600))
}

// A container ends by itself after its monitor was killed, before the daemon can see to that: its exit code is known where the
// kernel tells it. Another, which goes on, is killed.
func TestExitAfterMonitor(t *testing.T) {
	t.Parallel()
	for _, restarted := range []bool{false, true} { // the daemon that looks on is the one that made the container, or the next
		t.Run(map[bool]string{false: "same", true: "restarted"}[restarted], func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t)
			gate := d.dir + "/gate"
			pod := d.run()
			c, other := d.start(pod, "main", "exit", "7", gate), d.start(pod, "other", "sleep")
			if restarted {
				d.kill(syscall.SIGKILL)
				d.launch()
			}
			d.must(d.cmd.Process.Signal(syscall.SIGSTOP))
			defer d.cmd.Process.Signal(syscall.SIGCONT)
			// The signal is one thread's to find; until it has, the others go on.
			d.eventually("the daemon has stopped", func() bool { return stopped(d.cmd.Process.Pid) })
			d.killMonitor()
			alive := func(prefix, id string) bool {
				for _, pid := range d.processes() {
					if line := cmdline(pid); strings.HasPrefix(line, prefix) && strings.Contains(line, id) {
						return true
					}
				}
				return false
			}
			d.eventually("the monitor is gone", func() bool { return !alive("berth-monitor --", pod) })
			d.must(os.WriteFile(gate, nil, 0o644))
			d.eventually("the container has ended", func() bool { return !alive("fakeoci-container", c) })
			if !alive("fakeoci-container", other) {
				t.Error("the other container has ended")
			}
			d.must(d.cmd.Process.Signal(syscall.SIGCONT))
			for _, again := range []bool{false, true} {
				if again {
					d.kill(syscall.SIGKILL)
					d.launch()
				}
				d.eventually("it is noticed", func() bool {
					return d.status(c).State == rt.ContainerState_CONTAINER_EXITED && d.status(other).State == rt.ContainerState_CONTAINER_EXITED
				})
				d.endedAs(d.status(c), 7)
				d.endedAs(d.status(other), 137)
			}
		})
	}
}

// stopped reports whether every thread of a process has stopped (proc_pid_stat(5)).
func stopped(pid int) bool {
	stats := glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return len(stats) > 0 && !slices.ContainsFunc(stats, func(stat string) bool {
		b, err := os.ReadFile(stat)
		_, after, ok := strings.Cut(string(b), ") ")
		return err == nil && ok && !strings.HasPrefix(after, "T")
	})
}

// endedAs checks the status of a container whose monitor died before it could tell how it ended.
func (l *place) endedAs(s *rt.ContainerStatus, code int32) {
	l.t.Helper()
	reason := "Error"
	if !kernelTells() {
		code, reason = 255, "Unknown"
	}
	if s.State != rt.ContainerState_CONTAINER_EXITED || s.ExitCode != code || s.Reason != reason || s.FinishedAt < s.CreatedAt || !strings.Contains(s.Message, "monitor died") {
		l.t.Errorf("want code %d, reason %s: status %v", code, reason, s)
	}
}

// kernelTells reports whether this kernel tells by a pidfd how a process ended (Linux 6.15).
var kernelTells = sync.OnceValue(func() bool {
	cmd := exec.Command("sh", "-c", "exit 7")
	if cmd.Start() != nil {
		return false
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	cmd.Wait()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	return unix.IoctlPidfdInfo(fd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
})
