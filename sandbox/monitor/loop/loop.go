// Package loop is the body of berth-monitor, the parent of a pod's processes.
//
// A monitor starts what the daemon asks for, is the subreaper of all that comes of it, keeps the pipes and terminals of the
// containers, writes their logs and exit files, and holds a lock for as long as it lives. It knows nothing of pods, OCI or the
// CRI: a container is an argv that makes a process. The daemon may go and come back; nothing here waits for it.
//
//	daemon ═ connection ─┐                       ┌─ Log (file)
//	                     ├─ loop ─ process ─ stream ─ attachment ─ sink (pipe to a client)
//	SIGCHLD, SIGTERM ────┘             └─ stdin <──────┘
//
// One thread, one epoll set, no goroutines: each descriptor in the set has a source whose ready method does what can be done
// without waiting. The only waits are those for disks (log, exit file) and for a child's exec. All buffers are of fixed size
// and shared, since only one source works at a time; what is kept per container is bounded.
//
// Order at a death, on which everything else relies: the OOM counter is read, the output that is already in the pipes is
// logged, the exit file is written and renamed into place, the process is reaped, the daemon is told.
package loop

import (
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// readSize is what one read takes from a pipe: all that a pipe of default size holds.
const readSize = 64 << 10

// garbageMax is how much garbage is let lie before it is collected, in bytes, by a rough count of what requests leave. The Go
// runtime would wait for 1 MiB at least, whatever GOGC is, and take 1 MB more for it in every monitor that ever had a probe. A
// collection of this heap takes 0.1 ms.
const garbageMax = 128 << 10

// source is what stands behind a descriptor in the epoll set. A ready without cause has to be harmless: descriptors are
// non-blocking, and one closed and reused within a batch of events gets its predecessor's event.
type source interface{ ready(events uint32) }

// Options of Run.
type Options struct {
	// Listen is a listening SOCK_SEQPACKET socket, Lock the locked lock file. Run owns both.
	Listen, Lock int
	// Signals is where a byte with the signal's number can be read for each SIGCHLD and SIGTERM, non-blocking.
	Signals int
	// Grace between SIGTERM and SIGKILL when the monitor itself is terminated.
	Grace time.Duration
}

// loop is the state of a monitor.
type loop struct {
	opts    Options
	ep      int
	null    int // /dev/null
	sources map[int]source
	conn    *conn // the daemon's, nil while there is none
	procs   []*process
	held    map[string]int
	working int // runtime programs that have not ended
	end     ending
	garbage int    // since the last collection
	packet  []byte // room for one that is sent
	oob     [1024]byte
	buf     [readSize]byte
	batch   Batch
}

// Run serves until the daemon orders a shutdown or SIGTERM comes. The error says what kept it from starting.
func Run(opts Options) error {
	l := &loop{opts: opts, sources: map[int]source{}, held: map[string]int{}}
	var err error
	if l.ep, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return failure("epoll", err)
	}
	if l.null, err = openRetry("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return failure("open /dev/null", err)
	}
	if err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return failure("become subreaper", err)
	}
	syscall.CloseOnExec(opts.Lock)
	if err = l.watch(opts.Listen, unix.EPOLLIN, (*listener)(l)); err != nil {
		return failure("watch socket", err)
	}
	if err = l.watch(opts.Signals, unix.EPOLLIN, (*signals)(l)); err != nil {
		return failure("watch signals", err)
	}
	l.serve()
	return nil
}

// serve handles events until the end has come.
func (l *loop) serve() {
	var events [32]syscall.EpollEvent
	for !l.end.done {
		n, err := syscall.EpollWait(l.ep, events[:], l.timeout())
		if err != nil {
			n = 0 // EINTR
		}
		for _, ev := range events[:n] {
			if s := l.sources[int(ev.Fd)]; s != nil {
				s.ready(ev.Events)
			}
		}
		l.expire()
		if l.garbage > garbageMax {
			l.garbage = 0
			runtime.GC()
		}
	}
}

// watch adds a descriptor to the set and makes it non-blocking and close-on-exec.
func (l *loop) watch(fd int, events uint32, s source) error {
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	ev := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	if err := syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return err
	}
	l.sources[fd] = s
	return nil
}

// rewatch changes what a watched descriptor is watched for; 0 leaves hang-up and error.
func (l *loop) rewatch(fd int, events uint32) {
	ev := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_MOD, fd, &ev)
}

// drop takes a descriptor out of the set and closes it. The set has to forget it first: another process may hold the same
// open file, which would keep the entry alive.
func (l *loop) drop(fd int) {
	if fd < 0 {
		return
	}
	if l.sources[fd] != nil {
		delete(l.sources, fd)
		syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_DEL, fd, nil)
	}
	syscall.Close(fd)
}

// timeout is how long epoll may sleep, in milliseconds; -1 without a deadline.
func (l *loop) timeout() int {
	first := l.end.deadline
	for _, p := range l.procs {
		if p.deadline != 0 && (first == 0 || p.deadline < first) {
			first = p.deadline
		}
	}
	if first == 0 {
		return -1
	}
	return int(max(0, first-nanotime())/1e6) + 1
}

// expire does what is due.
func (l *loop) expire() {
	now := int64(0)
	for _, p := range l.procs {
		if p.deadline == 0 {
			continue
		}
		if now == 0 {
			now = nanotime()
		}
		if p.deadline <= now {
			p.expire()
		}
	}
	if l.end.deadline != 0 && l.end.deadline <= nanotime() {
		l.escalate()
	}
}

// find gives the process with an id, or nil.
func (l *loop) find(id string) *process {
	for _, p := range l.procs {
		if p.id == id {
			return p
		}
	}
	return nil
}

// forget removes a process from the table.
func (l *loop) forget(p *process) {
	for i, q := range l.procs {
		if q == p {
			copy(l.procs[i:], l.procs[i+1:])
			l.procs[len(l.procs)-1] = nil
			l.procs = l.procs[:len(l.procs)-1]
			return
		}
	}
}

// nanotime is the monotonic clock, for deadlines.
func nanotime() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// signals is the loop as the source behind Options.Signals.
type signals loop

func (s *signals) ready(uint32) {
	l := (*loop)(s)
	var b [64]byte
	for {
		n, err := syscall.Read(l.opts.Signals, b[:])
		if err == syscall.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			break
		}
		for _, sig := range b[:n] {
			if syscall.Signal(sig) == syscall.SIGTERM {
				l.terminate()
			}
		}
	}
	l.reap()
}

// exitEvent sends an exit to the daemon and says whether it could.
func (l *loop) exitEvent(x *wire.Exit) bool {
	return l.conn != nil && l.conn.send(&wire.Reply{V: wire.Version, Exit: x}, nil)
}
