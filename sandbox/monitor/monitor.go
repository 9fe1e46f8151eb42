// Package monitor is the daemon's side of the per-pod monitor: start one, find it again, and have it spawn processes.
//
// A monitor (package loop) is the parent of all processes of one pod and lives as long as the pod. The daemon makes its
// listening socket and its locked lock file and hands both over, so that a monitor can be talked to from the first moment and
// its life can be told from the lock alone:
//
//	DIR/monitor.sock   who connects is the daemon from then on; an earlier connection is cut
//	DIR/monitor.lock   locked: the monitor lives. Free: it is dead, however it died, and so is its knowledge
//
// A Monitor is one connection. Requests may be made from any number of goroutines; each waits for its own answer only. When
// the connection ends, because the monitor died, was shut down, or got a newer connection, everything that waits gets
// ErrGone. Exits are hints: the exit file is the truth.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// ErrGone is the error of requests on a connection that has ended.
var ErrGone = errors.New("monitor is gone")

// exitsBuffer is how many exits wait for a reader of Exits. More are kept, in order, by the goroutine that delivers them.
const exitsBuffer = 64

// Config says which monitor to start.
type Config struct {
	// Bin is the absolute path of the berth-monitor binary.
	Bin string
	// Dir is the pod's directory below the daemon's state; it exists. The monitor's working directory.
	Dir string
	// OOMScoreAdj is what the monitor sets for itself, as far as it may; its children inherit it.
	OOMScoreAdj int
}

// Monitor is a connection to the monitor of one pod.
type Monitor struct {
	conn  *socket
	pid   int
	child bool // of this process, which has to reap it
	exits chan wire.Exit
	ended chan struct{} // closed with the connection

	closing atomic.Bool

	mu      sync.Mutex
	seq     uint64
	waiting map[uint64]chan answer
	gone    bool
}

// answer is a reply with its descriptors.
type answer struct {
	reply wire.Reply
	files []*os.File
}

// Start starts the monitor of a pod and connects to it, without waiting for it to be up. It fails with fs.ErrExist when one
// is alive there.
func Start(ctx context.Context, c Config) (*Monitor, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	dir, err := os.OpenFile(c.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	defer dir.Close()
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("start monitor in %s: %w", c.Dir, err)
	}
	defer lock.Close()
	listener, err := listen(dir)
	if err != nil {
		return nil, fmt.Errorf("start monitor in %s: %w", c.Dir, err)
	}
	defer listener.Close()
	conn, err := dial(dir)
	if err != nil {
		return nil, fmt.Errorf("start monitor in %s: %w", c.Dir, err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		conn.close()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	defer null.Close()
	n := null.Fd()
	pid, err := syscall.ForkExec(c.Bin, []string{"berth-monitor", "--oom-score-adj=" + strconv.Itoa(c.OOMScoreAdj), c.Dir}, &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   []string{"GOMAXPROCS=1"},
		Files: []uintptr{n, n, n, listener.Fd(), lock.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		conn.close()
		return nil, fmt.Errorf("start monitor in %s: exec %s: %w", c.Dir, c.Bin, err)
	}
	return serve(conn, pid, true), nil
}

// Connect finds the monitor of a pod again. It fails with fs.ErrNotExist when none is alive there, and waits for a silent one
// as long as ctx lets it.
func Connect(ctx context.Context, path string) (*Monitor, error) {
	held, err := Held(path)
	if err == nil && !held {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("connect to monitor in %s: %w", path, err)
	}
	dir, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to monitor: %w", err)
	}
	defer dir.Close()
	conn, err := dial(dir)
	if err != nil {
		return nil, fmt.Errorf("connect to monitor in %s: %w", path, err)
	}
	m := serve(conn, 0, false)
	a, err := m.call(ctx, &wire.Request{Op: wire.OpHello}, nil)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("connect to monitor in %s: %w", path, err)
	}
	m.pid = a.reply.Pid
	return m, nil
}

// serve begins to use a connection.
func serve(conn *socket, pid int, child bool) *Monitor {
	m := &Monitor{
		conn: conn, pid: pid, child: child,
		exits: make(chan wire.Exit, exitsBuffer), ended: make(chan struct{}),
		waiting: map[uint64]chan answer{},
	}
	// ends when the connection does
	go m.receive()
	return m
}

// Pid of the monitor.
func (m *Monitor) Pid() int { return m.pid }

// Exits delivers the ends of processes as they happen. It is closed when the connection ends. Those that end while nobody is
// connected are in List.
func (m *Monitor) Exits() <-chan wire.Exit { return m.exits }

// Close ends the connection; the monitor goes on.
func (m *Monitor) Close() error {
	m.closing.Store(true)
	m.conn.shutdown()
	<-m.ended
	return nil
}

// Run starts a process; see wire.Spawn for what it says and which files go with it, all of which stay the caller's. With a pid
// file, Run returns when the runtime program has ended. The files it returns are the caller's to close. When ctx ends first,
// the spawn goes on: Signal ends it.
//
// The files are made blocking, as programs expect; the other ends of pipes stay as they are.
func (m *Monitor) Run(ctx context.Context, s wire.Spawn, files []*os.File) (wire.Spawned, []*os.File, error) {
	for _, f := range files {
		f.Fd()
	}
	a, err := m.call(ctx, &wire.Request{Op: wire.OpSpawn, Spawn: &s}, files)
	var out wire.Spawned
	if a.reply.Spawned != nil {
		out = *a.reply.Spawned
	}
	if err != nil {
		return out, nil, fmt.Errorf("run %s: %w", s.ID, err)
	}
	return out, a.files, nil
}

// Signal sends a signal to a process; while its runtime program works, to that and its children.
func (m *Monitor) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	_, err := m.call(ctx, &wire.Request{Op: wire.OpSignal, ID: id, Signal: int(sig)}, nil)
	return err
}

// ReopenLog makes the log file anew at its path. When it returns nil the file is there and gets all that follows; on error no
// file was made and the old one stays in use. It works from Run until the output has ended, in whatever state the process is;
// then it is fs.ErrNotExist.
func (m *Monitor) ReopenLog(ctx context.Context, id string) error {
	_, err := m.call(ctx, &wire.Request{Op: wire.OpReopen, ID: id}, nil)
	return err
}

// Resize tells a terminal its size in characters. A terminal that was handed out (PassIO) is not the monitor's any more: use
// SetSize.
func (m *Monitor) Resize(ctx context.Context, id string, cols, rows uint16) error {
	_, err := m.call(ctx, &wire.Request{Op: wire.OpResize, ID: id, Cols: cols, Rows: rows}, nil)
	return err
}

// SetSize tells a terminal, by its master, its size in characters.
func SetSize(master *os.File, cols, rows uint16) error {
	c, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	err = c.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows})
	})
	return errors.Join(err, ioctl)
}

// AttachIO connects a client to a process that was run without PassIO: the output from now on goes to stdout and stderr, what
// comes from stdin goes to the process if it has a standard input. nil is what is not wanted. They should be pipes, whose
// ends given here the caller closes after the call; the monitor closes its copies when the process is dead and all was sent,
// which is the client's end of file, and also when the client is more than a full pipe and 16 MiB behind.
func (m *Monitor) AttachIO(ctx context.Context, id string, stdin, stdout, stderr *os.File) error {
	req := &wire.Request{Op: wire.OpAttach, ID: id, Stdin: stdin != nil, Stdout: stdout != nil, Stderr: stderr != nil}
	var files []*os.File
	for _, f := range []*os.File{stdin, stdout, stderr} {
		if f != nil {
			files = append(files, f)
		}
	}
	_, err := m.call(ctx, req, files)
	return err
}

// Hold has the monitor keep a descriptor for as long as it lives, for use by name in wire.Spawn.Held. One held under the same
// name before is closed.
func (m *Monitor) Hold(ctx context.Context, name string, f *os.File) error {
	_, err := m.call(ctx, &wire.Request{Op: wire.OpHold, Name: name}, []*os.File{f})
	return err
}

// List tells of all processes that live, and of those that have ended and were not told of or have output that others hold
// open.
func (m *Monitor) List(ctx context.Context) ([]wire.Process, error) {
	var all []wire.Process
	for {
		a, err := m.call(ctx, &wire.Request{Op: wire.OpList, Skip: len(all)}, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, a.reply.List...)
		if !a.reply.More || len(a.reply.List) == 0 {
			return all, nil
		}
	}
}

// Shutdown has the monitor kill everything that descends from it and exit, and waits for that. A monitor that is gone already
// is success.
func (m *Monitor) Shutdown(ctx context.Context) error {
	_, err := m.call(ctx, &wire.Request{Op: wire.OpShutdown}, nil)
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	select {
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("monitor shutdown: %w", ctx.Err())
	}
}

// call sends a request and waits for its answer.
func (m *Monitor) call(ctx context.Context, req *wire.Request, files []*os.File) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, fmt.Errorf("monitor %s: %w", req.Op, err)
	}
	c := make(chan answer, 1)
	m.mu.Lock()
	if m.gone {
		m.mu.Unlock()
		return answer{}, fmt.Errorf("monitor %s: %w", req.Op, ErrGone)
	}
	m.seq++
	req.V, req.Seq = wire.Version, m.seq
	m.waiting[req.Seq] = c
	m.mu.Unlock()
	err := m.conn.send(ctx, req, files)
	if err == nil {
		select {
		case a, ok := <-c:
			switch {
			case !ok:
				err = ErrGone
			case a.reply.Err != nil:
				return a, refused(a.reply.Err)
			default:
				return a, nil
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	m.mu.Lock()
	delete(m.waiting, req.Seq)
	m.mu.Unlock()
	select { // an answer that came after all
	case a := <-c:
		closeFiles(a.files)
	default:
	}
	return answer{}, fmt.Errorf("monitor %s: %w", req.Op, err)
}

// refused gives a monitor's error the classes that errno does not have by itself.
func refused(e *wire.Error) error {
	if e.Errno == syscall.EINVAL {
		return &invalid{e}
	}
	return e
}

// invalid is an error that is fs.ErrInvalid as well.
type invalid struct{ e *wire.Error }

func (i *invalid) Error() string        { return i.e.Text }
func (i *invalid) Is(target error) bool { return target == fs.ErrInvalid }
func (i *invalid) Unwrap() error        { return i.e }

// receive hands out what comes until the connection ends.
func (m *Monitor) receive() {
	events := make(chan wire.Exit)
	// ends when events is closed and all is delivered or dropped
	go deliver(events, m.exits)
	for {
		a, err := m.conn.receive()
		if err != nil {
			break
		}
		if a.reply.Exit != nil {
			events <- *a.reply.Exit
			continue
		}
		m.mu.Lock()
		c := m.waiting[a.reply.Seq]
		delete(m.waiting, a.reply.Seq)
		if c != nil {
			c <- a
		}
		m.mu.Unlock()
		if c == nil {
			closeFiles(a.files)
		}
	}
	close(events)
	m.conn.close()
	m.reap()
	m.mu.Lock()
	m.gone = true
	for seq, c := range m.waiting {
		delete(m.waiting, seq)
		close(c)
	}
	m.mu.Unlock()
	close(m.ended)
}

// deliver passes exits on without ever making the sender wait.
func deliver(in <-chan wire.Exit, out chan<- wire.Exit) {
	defer close(out)
	var queue []wire.Exit
	for {
		var send chan<- wire.Exit
		var next wire.Exit
		if len(queue) > 0 {
			send, next = out, queue[0]
		}
		select {
		case x, ok := <-in:
			if !ok {
				for _, x := range queue { // as many as there is room for: they are hints
					select {
					case out <- x:
					default:
						return
					}
				}
				return
			}
			queue = append(queue, x)
		case send <- next:
			queue = queue[1:]
		}
	}
}

// reap waits a moment for a monitor that is our child to be dead; its connection ends a little before. One that lives, having
// got a newer connection, is left.
func (m *Monitor) reap() {
	for wait := time.Millisecond; m.child && wait < 500*time.Millisecond; wait *= 2 {
		pid, err := syscall.Wait4(m.pid, nil, syscall.WNOHANG, nil)
		if pid == m.pid || err == syscall.ECHILD || m.closing.Load() {
			return
		}
		time.Sleep(wait)
	}
}

// Held says whether the lock in a pod's directory is held, that is, whether its monitor lives. It takes no lock itself.
func Held(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, wire.LockName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return false, fmt.Errorf("lock of %s: %w", dir, err)
	}
	return lk.Type != unix.F_UNLCK, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
