package loop

import (
	"syscall"
	"time"

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
			killTree(p.runtime)
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

const (
	// stopTries times stopPause is how long a program may take to stop. One that sits in the kernel for longer makes no child there.
	stopTries = 50
	stopPause = 200 * time.Microsecond
)

// killTree kills a runtime program with all that it has started. Killing the program alone, or its process group, would leave
// what it has made and not yet named: a container's process has a session of its own, and nobody would know it.
//
// Each process is stopped before its children are listed, so that none is born unseen and none is reaped, which is what keeps
// the numbers theirs. A child whose parent has ended on the way was handed to the monitor and is not found here.
func killTree(root int) {
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		stop(tree[i])
		tree = appendChildren(tree, tree[i])
	}
	for i := len(tree) - 1; i >= 0; i-- {
		syscall.Kill(tree[i], syscall.SIGKILL)
	}
	syscall.Kill(-root, syscall.SIGKILL)
}

// stop stops a process and waits until all its threads have stopped: until then another thread may be forking.
func stop(pid int) {
	if syscall.Kill(pid, syscall.SIGSTOP) != nil {
		return
	}
	for range stopTries {
		moving := false
		for _, tid := range threads(pid) {
			moving = moving || !still("/proc/"+itoa(pid)+"/task/"+itoa(tid)+"/stat")
		}
		if !moving {
			return
		}
		t := syscall.NsecToTimespec(int64(stopPause))
		syscall.Nanosleep(&t, nil)
	}
}

// still reads the state from a thread's stat, the field after the name in parentheses: proc_pid_stat(5).
func still(stat string) bool {
	data, err := readFile(stat, 512)
	if err != nil {
		return true // it has ended
	}
	for i := len(data) - 1; i >= 0; i-- {
		if data[i] == ')' && i+2 < len(data) {
			switch data[i+2] {
			case 'T', 't', 'Z', 'X':
				return true
			}
			return false
		}
	}
	return false
}

// threads lists the threads of a process.
func threads(pid int) []int {
	fd, err := openRetry("/proc/"+itoa(pid)+"/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer syscall.Close(fd)
	var tids []int
	var buf [4096]byte
	for {
		n, err := syscall.ReadDirent(fd, buf[:])
		if n <= 0 || err != nil {
			return tids
		}
		_, _, names := syscall.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if tid := atoi([]byte(name)); tid > 0 {
				tids = append(tids, tid)
			}
		}
	}
}

// appendChildren adds the children of a process's threads: proc_pid_task_children(5).
func appendChildren(to []int, pid int) []int {
	for _, tid := range threads(pid) {
		data, err := readFile("/proc/"+itoa(pid)+"/task/"+itoa(tid)+"/children", 4096)
		for err == nil && len(data) > 0 {
			if child := atoi(data); child > 0 {
				to = append(to, child)
			}
			data = afterSpace(data)
		}
	}
	return to
}
