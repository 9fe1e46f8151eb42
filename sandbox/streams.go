package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/ns"
)

// AttachRequest joins a client to a running container's streams. Nil streams are not wanted. The caller keeps
// ownership of the streams and closes Resize.
type AttachRequest struct {
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	Resize         <-chan Size
}

// pipes are the ends of a process's standard streams: ours, and the ones to hand over.
type pipes struct {
	ours, theirs [3]*os.File
	copying      sync.WaitGroup
}

// openPipes makes a pipe for each stream that is wanted.
func openPipes(stdin, stdout, stderr bool) (*pipes, error) {
	p := new(pipes)
	for i, want := range [3]bool{stdin, stdout, stderr} {
		if !want {
			continue
		}
		r, w, err := pipe(i != 0)
		if err != nil {
			p.closeTheirs()
			p.closeOurs()
			return nil, err
		}
		if i == 0 {
			p.theirs[i], p.ours[i] = r, w
		} else {
			p.theirs[i], p.ours[i] = w, r
		}
	}
	return p, nil
}

// pipe makes a pipe of which we read (or else write) one end. Our end goes through the poller, so that deadlines and
// Close end a waiting call; the other end stays blocking, as programs expect of their standard streams.
func pipe(weRead bool) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe2: %w", err)
	}
	ours := fds[1]
	if weRead {
		ours = fds[0]
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

func closeAll(files [3]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (p *pipes) closeTheirs() { closeAll(p.theirs) }
func (p *pipes) closeOurs()   { closeAll(p.ours) }

// copy moves data between our ends and the client's streams until each ends.
func (p *pipes) copy(stdin io.Reader, stdout, stderr io.WriteCloser) {
	if w := p.ours[0]; w != nil {
		// ends when the client closes its stdin, or writing to the closed pipe fails.
		go func() {
			io.Copy(w, stdin)
			w.Close() // half-close: the process sees the end of its input
		}()
	}
	for i, to := range []io.WriteCloser{stdout, stderr} {
		from := p.ours[i+1]
		if from == nil {
			continue
		}
		p.copying.Add(1)
		// ends at the end of the stream, or at its read deadline.
		go func() {
			defer p.copying.Done()
			if _, err := io.Copy(to, from); err != nil {
				io.Copy(io.Discard, from) // the client went away: never block the process
			}
		}()
	}
}

// said returns what a runtime that could not start the process wrote to its standard error, as the end of an error
// text.
func (p *pipes) said() string {
	f := p.ours[2]
	if f == nil {
		return ""
	}
	f.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	b, _ := io.ReadAll(io.LimitReader(f, 4<<10))
	if text := strings.TrimSpace(string(b)); text != "" {
		return ": " + text
	}
	return ""
}

// bound ends the reading of the outputs soon: they may be held open by a process that nobody waits for.
func (p *pipes) bound() {
	deadline := time.Now().Add(drainTime)
	for _, f := range p.ours[1:] {
		if f != nil {
			f.SetReadDeadline(deadline)
		}
	}
}

// drain waits until the outputs have ended, or drainTime is over.
func (p *pipes) drain() {
	p.bound()
	p.copying.Wait()
}

func (x execution) pipes(ctx context.Context, r ExecRequest) (int, error) {
	p, err := openPipes(r.Stdin != nil, r.Stdout != nil, r.Stderr != nil)
	if err != nil {
		return 0, err
	}
	defer p.closeOurs()
	proc, err := x.launch(ctx, r.Cmd, false, p.theirs)
	p.closeTheirs()
	if err != nil {
		return 0, err
	}
	p.copy(r.Stdin, r.Stdout, r.Stderr)
	code, err := proc.wait(ctx)
	p.drain()
	return int(code), err
}

// Attach joins the request's streams to the container's until the container ends, the client's input and output have
// both gone, or ctx ends. The container runs on.
func (c *Container) Attach(ctx context.Context, r AttachRequest) error {
	if err := c.running(); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	mon, err := c.pod.sup.get(ctx)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	p, err := openPipes(r.Stdin != nil && c.cfg.GetStdin(), r.Stdout != nil, r.Stderr != nil && !c.TTY())
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer p.closeOurs()
	err = mon.AttachIO(ctx, c.id, p.theirs[0], p.theirs[1], p.theirs[2])
	p.closeTheirs()
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", short(c.id), err)
	}
	// ends when the caller closes Resize.
	go func() {
		for s := range r.Resize {
			if s.Width != 0 && s.Height != 0 {
				mon.Resize(ctx, c.id, s.Width, s.Height)
			}
		}
	}()
	p.copy(r.Stdin, r.Stdout, r.Stderr)
	done := make(chan struct{})
	// ends when the monitor closes the attachment: at the container's end, or when our ends are closed.
	go func() {
		p.copying.Wait()
		close(done)
	}()
	if r.Stdout == nil && r.Stderr == nil {
		done = nil // only input: stay until the container or the client ends
	}
	select {
	case <-done:
	case <-c.exit:
		p.drain()
	case <-ctx.Done():
	}
	return nil
}

// Dial connects to a port inside the pod's network, over IPv4 loopback and then IPv6 (CRI PortForward).
func (p *Pod) Dial(ctx context.Context, port int32) (net.Conn, error) {
	if !p.view.Load().ready {
		return nil, fmt.Errorf("port-forward: pod %s: %w", short(p.id), ErrNotReady)
	}
	var first error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := dial(ctx, p.netns(), net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("port-forward: pod %s port %d: %w", short(p.id), port, first)
}

func dial(ctx context.Context, netns, addr string) (net.Conn, error) {
	if netns != "" {
		return ns.Dial(ctx, netns, "tcp", addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}
