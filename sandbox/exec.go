package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

const (
	// maxExecOutput bounds stdout and stderr of ExecSync together: a client takes messages of 16 MiB, framing included.
	maxExecOutput = 16<<20 - 4096
	// drainTime is how long output is still read after an exec'ed process has ended: a child it left behind may hold
	// its pipes open for ever.
	drainTime = 1500 * time.Millisecond
	// abortTime bounds the ending of an exec that never began.
	abortTime = 5 * time.Second
)

// Size is the size of a terminal in character cells.
type Size struct{ Width, Height uint16 }

// ExecRequest is one command to run in a container. Stdin, Stdout and Stderr may be nil; with TTY, Stderr is not
// used. The caller keeps ownership of the streams and closes Resize.
type ExecRequest struct {
	Cmd            []string
	TTY            bool
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	Resize         <-chan Size
}

// process is an exec'ed process: a cgroup of its own below the container's, so that a timeout reaches its whole tree.
type process struct {
	c      *Container
	id     string
	sub    *cgroup.Group
	exit   chan wire.Exit
	master *os.File // of the terminal
}

// ExecSync answers ExecSync: the command's output and exit code. At the timeout (0: none) the command and all its
// descendants are killed and the error is context.DeadlineExceeded.
func (c *Container) ExecSync(ctx context.Context, cmd []string, timeout time.Duration) (*rt.ExecSyncResponse, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no end within %s: %w", timeout, context.DeadlineExceeded))
		defer cancel()
	}
	io, err := openPipes(false, true, true)
	if err != nil {
		return nil, err
	}
	defer io.closeOurs()
	p, err := execution{c}.launch(ctx, cmd, false, io.theirs)
	io.closeTheirs()
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w%s", short(c.id), err, io.said())
	}
	room := &budget{left: maxExecOutput}
	stdout, stderr := collect(io.outs[1], room), collect(io.outs[2], room)
	code, err := p.wait(ctx)
	io.bound()
	resp := &rt.ExecSyncResponse{Stdout: <-stdout, Stderr: <-stderr, ExitCode: code}
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", short(c.id), err)
	}
	return resp, nil
}

// budget is a number of bytes that several readers share.
type budget struct {
	mu   sync.Mutex
	left int
}

func (b *budget) take(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = min(n, b.left)
	b.left -= n
	return n
}

// collect reads r to its end, keeping what the budget allows and discarding the rest.
func collect(r io.Reader, room *budget) <-chan []byte {
	out := make(chan []byte, 1)
	// ends at the end of r or at its read deadline.
	go func() {
		var all []byte
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Read(buf)
			all = append(all, buf[:room.take(n)]...)
			if err != nil {
				break
			}
		}
		out <- all
	}()
	return out
}

// execution is the running of further processes in a container.
type execution struct{ c *Container }

// launch starts a process in the container with stdio as its standard streams (nil: /dev/null), or with a terminal.
func (x execution) launch(ctx context.Context, cmd []string, tty bool, stdio [3]*os.File) (*process, error) {
	c := x.c
	if err := c.running(); err != nil {
		return nil, err
	}
	mon, err := c.pod.sup.get(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := x.document(cmd, tty)
	if err != nil {
		return nil, err
	}
	defer spec.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	for i := range stdio {
		if stdio[i] == nil {
			stdio[i] = null
		}
	}
	p, err := x.newProcess()
	if err != nil {
		return nil, err
	}
	files := []*os.File{stdio[0], stdio[1], stdio[2], spec}
	if tty {
		files = files[3:] // the terminal takes their place
	}
	if err := p.start(ctx, mon, tty, files); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// newProcess takes a name for an exec and makes its cgroup. Names are not counted: an exec that an earlier daemon began
// may still run.
func (x execution) newProcess() (*process, error) {
	c := x.c
	g, err := footprint{c}.cgroup()
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	name := "exec-" + newID()[:12]
	sub, err := g.Sub(name)
	if err != nil {
		return nil, fmt.Errorf("make exec cgroup: %w", err)
	}
	return &process{c: c, id: c.id + "/" + name, sub: sub}, nil
}

// start has the monitor run the runtime's exec. files are the standard streams and the process document.
func (p *process) start(ctx context.Context, mon *monitor.Monitor, tty bool, files []*os.File) error {
	c := p.c
	name := filepath.Base(p.id)
	s := wire.Spawn{
		ID: p.id, PassIO: true, TTY: tty, Env: runtimeEnv(),
		PidFile: filepath.Join(c.pod.state(), c.id+"."+name+".pid"), Timeout: int64(runtimeTimeout / time.Millisecond),
	}
	x := oci.ExecArgs{ID: c.id, Process: "/proc/self/fd/3", PidFile: s.PidFile}
	moved := !c.pod.handler.TakesCgroup(p.sub.Arg())
	if !moved {
		x.Cgroup = p.sub.Arg()
	}
	if tty {
		s.ConsoleSocket = c.id[:12] + "." + name + ".tty"
		x.ConsoleSocket = c.pod.consoleArg(mon, s.ConsoleSocket)
	}
	s.Argv = c.pod.handler.ExecArgv(x)
	p.exit = c.pod.sup.await(p.id)
	res, back, err := mon.Run(ctx, s, executed(c.pod.handler, &s, files, 4))
	if err == nil && moved {
		err = cgroup.AddTree(p.sub, res.Pid)
	}
	if err != nil {
		p.abort(ctx, mon)
	}
	os.Remove(s.PidFile)
	if err != nil {
		return oci.Spoken(err)
	}
	if tty && len(back) > 0 {
		p.master = back[0]
	}
	return nil
}

// executed has the monitor execute the handler's program by descriptor where that can be had: the one after files, number n in the
// child.
func executed(h oci.Handler, s *wire.Spawn, files []*os.File, n int) []*os.File {
	f := h.Program.Open()
	if f == nil {
		return files
	}
	s.Path = "/proc/self/fd/" + strconv.Itoa(n)
	return append(slices.Clone(files), f)
}

// abort makes sure that an exec that was given up on does not come to life later: its runtime may still be at work.
func (p *process) abort(ctx context.Context, mon *monitor.Monitor) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	err := mon.Signal(ctx, p.id, syscall.SIGKILL)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, monitor.ErrGone) {
		err = nil
	}
	if err = errors.Join(err, cgroup.Destroy(ctx, p.sub)); err != nil {
		p.c.m.opt.Log.Warn("exec not ended", "exec", p.id, "err", err)
	}
}

// document is the process document of an exec: the container's own process with another command, in a file that
// lives in memory only. The caller closes it.
func (x execution) document(cmd []string, tty bool) (*os.File, error) {
	c := x.c
	if len(cmd) == 0 || cmd[0] == "" {
		return nil, fmt.Errorf("cmd is empty: %w", fs.ErrInvalid)
	}
	var spec specs.Spec
	if err := load(filepath.Join(c.dir(), "config.json"), &spec); err != nil {
		return nil, err
	}
	proc, err := compile.Process(&spec, cmd, tty)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(proc)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("process.json", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "process.json")
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// wait returns the exit code once the process has ended. When ctx ends first, the process and its descendants are
// killed and the error is the context's.
func (p *process) wait(ctx context.Context) (int32, error) {
	defer p.close()
	select {
	case e, ok := <-p.exit:
		if !ok {
			return 0, errors.New("the pod's monitor died: how the process ended is not known")
		}
		return int32(e.Code), nil
	case <-ctx.Done():
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearBudget)
	defer cancel()
	if err := p.sub.Kill(own); err != nil {
		return 0, errors.Join(context.Cause(ctx), err)
	}
	select {
	case <-p.exit:
	case <-own.Done():
	}
	return 0, context.Cause(ctx)
}

// close gives back what the exec had. Descendants that outlive the process stay in the container's cgroup.
func (p *process) close() {
	if p.master != nil {
		p.master.Close()
	}
	p.c.pod.sup.unawait(p.id)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if procs, err := p.sub.Procs(); err == nil && len(procs) > 0 {
		// A process left behind on purpose (exec of "daemon &") may go on; its cgroup goes with the container's.
		p.sub.Close()
		return
	}
	if err := p.sub.Remove(ctx); err != nil {
		p.c.m.opt.Log.Warn("exec cgroup stays until the container ends", "exec", p.id, "err", err)
	}
	p.sub.Close()
}

// Exec runs a command with the request's streams and returns its exit code. When ctx ends, the command is killed.
func (c *Container) Exec(ctx context.Context, r ExecRequest) (int, error) {
	var code int
	var err error
	if r.TTY {
		code, err = execution{c}.tty(ctx, r)
	} else {
		code, err = execution{c}.pipes(ctx, r)
	}
	if err != nil {
		return code, fmt.Errorf("exec in container %s: %w", short(c.id), err)
	}
	return code, nil
}

func (x execution) tty(ctx context.Context, r ExecRequest) (int, error) {
	p, err := x.launch(ctx, r.Cmd, true, [3]*os.File{})
	if err != nil {
		return 0, err
	}
	master := p.master
	if master == nil {
		p.close()
		return 0, errors.New("the runtime gave no terminal")
	}
	// The output ends when the last holder of the terminal's other end is gone (EIO), or when it is over.
	out := &pipes{ours: [3]*os.File{1: master}}
	out.outs[1] = &output{f: master, moved: &out.moved}
	out.copy(nil, r.Stdout, nil)
	if r.Stdin != nil {
		// ends when the client closes its stdin, or writing to a closed terminal fails.
		go func() { io.Copy(master, r.Stdin) }()
	}
	follow(r.Resize, func(s Size) { setSize(master, s) })
	p.master = nil // closed here, after the output is through
	code, err := p.wait(ctx)
	out.bound()
	if stalled := out.deliver(ctx, out.done()); err == nil {
		err = stalled
	}
	master.Close()
	return int(code), err
}

func setSize(master *os.File, s Size) {
	raw, err := master.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
	})
}
