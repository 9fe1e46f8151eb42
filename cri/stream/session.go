package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"

	"github.com/berth-runtime/berth/sandbox"
)

// session is one connection's work. It is what k8s.io/cri-streaming calls Executor, Attacher and PortForwarder.
type session struct {
	ctx  context.Context // ends with the connection
	rt   Runtime
	id   string // container, or pod for port-forward
	cmd  []string
	exec bool
	opts remotecommand.Options
	over func() // to be called when exec or attach is done

	forwards *places // of connections, for port-forward
}

// ExecInContainer implements remotecommand.Executor. An exit code other than 0 is an error of type exec.ExitError.
func (x session) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	code, e := x.run(streams{in, out, err, x.sizes(resize)})
	if x.ctx.Err() != nil {
		return nil // nobody is left to be told
	}
	if e == nil && code != 0 {
		e = exec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: code}
	}
	return e
}

// AttachContainer implements remotecommand.Attacher.
func (x session) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	_, e := x.run(streams{in, out, err, x.sizes(resize)})
	if x.ctx.Err() != nil {
		return nil
	}
	return e
}

// PortForward implements portforward.PortForwarder for one connection to one port. Only a connection that can't be
// made is an error: clients give up the whole session when they are told of one.
func (x session) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	if !x.forwards.take() {
		return fmt.Errorf("%w: %d connections are forwarded in this session, as many as may be", ErrBusy, maxForwards)
	}
	defer x.forwards.give()
	conn, err := x.rt.Dial(x.ctx, x.id, port)
	if err != nil {
		return err
	}
	join(x.ctx, conn, stream)
	return nil
}

// streams are the ends of a session's streams; those the request did not ask for are dropped by run.
type streams struct {
	in       io.Reader
	out, err io.WriteCloser
	resize   <-chan sandbox.Size
}

// run executes or attaches and returns the exit code (0 for attach).
func (x session) run(s streams) (int, error) {
	if !x.opts.Stdin {
		s.in = nil
	}
	if !x.opts.Stdout {
		s.out = nil
	}
	if !x.opts.Stderr || x.opts.TTY {
		s.err = nil
	}
	// SPDY carries each stream by itself: only its own end says that all of its data came before.
	for _, w := range []io.WriteCloser{s.out, s.err} {
		if w != nil {
			defer w.Close()
		}
	}
	defer x.over()
	if !x.exec {
		err := x.rt.Attach(x.ctx, x.id, sandbox.AttachRequest{Stdin: s.in, Stdout: s.out, Stderr: s.err, Resize: s.resize})
		return 0, err
	}
	return x.rt.Exec(x.ctx, x.id, sandbox.ExecRequest{
		Cmd: x.cmd, TTY: x.opts.TTY, Stdin: s.in, Stdout: s.out, Stderr: s.err, Resize: s.resize,
	})
}

// sizes translates terminal sizes. A size that nobody took yet is replaced by a newer one, so that a burst of them
// never holds up the connection; sizes with a zero are dropped.
func (x session) sizes(in <-chan remotecommand.TerminalSize) <-chan sandbox.Size {
	if in == nil {
		return nil
	}
	out := make(chan sandbox.Size, 1)
	// ends when the client's resize stream or the connection ends.
	go func() {
		defer close(out)
		for {
			select {
			case size, ok := <-in:
				if !ok {
					return
				}
				offer(out, sandbox.Size{Width: size.Width, Height: size.Height})
			case <-x.ctx.Done():
				return
			}
		}
	}()
	return out
}

// offer puts the size into a channel of capacity 1, in the place of an older one. The caller is the only sender.
func offer(out chan sandbox.Size, size sandbox.Size) {
	if size.Width == 0 || size.Height == 0 {
		return
	}
	select {
	case out <- size:
		return
	default:
	}
	select {
	case <-out:
	default:
	}
	out <- size
}

// joinLinger is how long the client may still send after the pod ended its side without anything moving. Most peers
// that end their side are gone; one that only shut down its sending half keeps reading.
const joinLinger = 5 * time.Second

// join copies both ways until both sides have ended, each end being passed on as a half-close, or ctx ends.
func join(ctx context.Context, conn net.Conn, stream io.ReadWriteCloser) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	up := make(chan struct{}) // client to pod
	// ends when the client ends its side, or the pod no longer takes data.
	go func() {
		defer close(up)
		_, err := io.Copy(conn, stream)
		half, ok := conn.(interface{ CloseWrite() error })
		if err != nil && !errors.Is(err, io.EOF) || !ok {
			conn.Close()
			return
		}
		half.CloseWrite()
	}()
	io.Copy(stream, conn)
	stream.Close()
	select {
	case <-up:
	case <-ctx.Done():
	case <-time.After(joinLinger):
	}
}
