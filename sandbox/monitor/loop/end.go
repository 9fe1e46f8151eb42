package loop

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// killTime is how long the killed may take to go, in nanoseconds. What is still there then sits in the kernel and won't be
// waited for.
const killTime = 10e9

// ending is the monitor's own end.
//
//	SIGTERM ── term ── grace over ── kill ── nobody left, or killTime over ── done
//	shutdown ────────────────────────┘
type ending struct {
	stage    int // 0, stageTerm or stageKill
	deadline int64
	asker    *conn
	seq      uint64
	done     bool
}

const (
	stageTerm = 1
	stageKill = 2
)

func (e *ending) begun() bool { return e.stage != 0 }

// terminate: SIGTERM has come. The processes are asked to end first.
func (l *loop) terminate() {
	if l.end.begun() {
		return
	}
	l.end.stage, l.end.deadline = stageTerm, nanotime()+int64(l.opts.Grace)
	for _, p := range l.procs {
		if p.pid != 0 && p.exit == nil {
			syscall.Kill(p.pid, syscall.SIGTERM)
			syscall.Kill(p.pid, syscall.SIGCONT)
		}
	}
}

// shutdown: the daemon wants the end now. It is answered when nobody is left.
func (l *loop) shutdown(c *conn, seq uint64) {
	l.end.asker, l.end.seq = c, seq
	if l.end.stage != stageKill {
		l.kill()
	}
	l.reap()
}

// escalate: the deadline of a stage is over.
func (l *loop) escalate() {
	if l.end.stage == stageTerm {
		l.kill()
		l.reap()
		return
	}
	l.leave(refusal("shutdown: processes outlived SIGKILL", syscall.EBUSY))
}

// kill begins the last stage.
func (l *loop) kill() {
	l.end.stage, l.end.deadline = stageKill, nanotime()+killTime
	l.killChildren()
}

// killChildren kills all processes in the table, and whoever is a child now. Their children become ours when they die, and
// are found by the next call.
func (l *loop) killChildren() {
	for _, p := range l.procs {
		if p.runtime != 0 {
			syscall.Kill(-p.runtime, syscall.SIGKILL)
		}
		if p.pid != 0 && p.exit == nil {
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	// Children belong to the thread that made them, and orphans to the first: proc_pid_children(5).
	for _, tid := range [...]int{syscall.Getpid(), syscall.Gettid()} {
		self := "/proc/self/task/" + itoa(tid) + "/children"
		data, err := readFile(self, 4096)
		for err == nil && len(data) > 0 {
			pid := atoi(data)
			if pid > 0 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			data = afterSpace(data)
		}
	}
}

// afterSpace is what follows the first blank.
func afterSpace(b []byte) []byte {
	for i, c := range b {
		if c == ' ' {
			return b[i+1:]
		}
	}
	return nil
}

// finish ends the monitor once it is to end and has no children left.
func (l *loop) finish() {
	if !l.end.begun() || l.end.done {
		return
	}
	if _, _, err := peek(0); err == unix.ECHILD {
		l.leave(nil)
	} else if l.end.stage == stageKill {
		l.killChildren()
	}
}

// leave answers and makes serve return.
func (l *loop) leave(err error) {
	l.end.done = true
	if c := l.end.asker; c != nil {
		r := &wire.Reply{V: wire.Version, Seq: l.end.seq}
		if err != nil {
			r.Err = asError(err)
		}
		c.send(r, nil)
	}
}
