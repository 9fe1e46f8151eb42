package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// endingTime is how long after the end of a container's output its exit may be heard of.
const endingTime = 5 * time.Second

// stallTime is how long a client may take nothing of what it still has to get from a process that has ended.
const stallTime = time.Minute

// pipes are the ends of a process's standard streams: ours, and the ones to hand over.
type pipes struct {
	ours, theirs [3]*os.File
	outs         [3]*output // readers of ours
	copying      sync.WaitGroup
	moved        atomic.Int64 // bytes that clients have taken
}

// output reads one of a process's outputs to its end. Once the process has ended it is bounded, because others may
// hold the pipe or terminal open for ever: what can have been in it then is read whenever the reader comes to it, and
// what is written later only for drainTime.
type output struct {
	f     *os.File
	moved *atomic.Int64
	mu    sync.Mutex
	over  time.Time // zero: not bounded
	owed  int       // of what was there at the end, what may still have to be read
}

// pipeSize is what a pipe holds (pipe(7)); a terminal holds less.
const pipeSize = 64 << 10

// bound says that the process has ended.
func (o *output) bound() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over, o.owed = time.Now().Add(drainTime), pipeSize
	o.f.SetReadDeadline(o.over)
}

func (o *output) Read(p []byte) (int, error) {
	o.mu.Lock()
	if o.owed > 0 {
		o.f.SetReadDeadline(time.Now().Add(drainTime))
	} else if !o.over.IsZero() {
		o.f.SetReadDeadline(o.over)
	}
	o.mu.Unlock()
	n, err := o.f.Read(p)
	o.mu.Lock()
	o.owed -= min(n, o.owed)
	o.mu.Unlock()
	o.moved.Add(int64(n))
	return n, err
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
			p.outs[i] = &output{f: r, moved: &p.moved}
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
		from := p.outs[i+1]
		if from == nil {
			continue
		}
		p.copying.Add(1)
		// ends at the end of the stream, or when it is over after the process's end. A client that takes nothing more
		// holds it until its connection is closed.
		go func() {
			defer p.copying.Done()
			var err error
			if to != nil {
				_, err = io.Copy(to, from)
			}
			if to == nil || err != nil {
				io.Copy(io.Discard, from) // no client, or it went away: never block the process
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
	for _, o := range p.outs {
		if o != nil {
			o.bound()
		}
	}
}

// done is closed when the outputs have ended and the clients have taken them.
func (p *pipes) done() <-chan struct{} {
	done := make(chan struct{})
	// ends with the copying.
	go func() {
		p.copying.Wait()
		close(done)
	}()
	return done
}

// deliver waits for done, as long as the clients take something and are there.
func (p *pipes) deliver(ctx context.Context, done <-chan struct{}) error {
	tick := time.NewTicker(stallTime)
	defer tick.Stop()
	for before := p.moved.Load(); ; {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return nil
		case <-tick.C:
			now := p.moved.Load()
			if now == before {
				return fmt.Errorf("the client took no output for %v: %w", stallTime, os.ErrDeadlineExceeded)
			}
			before = now
		}
	}
}

func (x execution) pipes(ctx context.Context, r ExecRequest) (int, error) {
	// Standard error is there in any case: a runtime that can't start the command says on it why not.
	p, err := openPipes(r.Stdin != nil, r.Stdout != nil, true)
	if err != nil {
		return 0, err
	}
	defer p.closeOurs()
	proc, err := x.launch(ctx, r.Cmd, false, p.theirs)
	p.closeTheirs()
	if err != nil {
		return 0, fmt.Errorf("%w%s", err, p.said())
	}
	p.copy(r.Stdin, r.Stdout, r.Stderr)
	code, err := proc.wait(ctx)
	p.bound()
	if stalled := p.deliver(ctx, p.done()); err == nil {
		err = stalled
	}
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
	follow(r.Resize, func(s Size) { mon.Resize(ctx, c.id, s.Width, s.Height) })
	p.copy(r.Stdin, r.Stdout, r.Stderr)
	done := p.done() // when the monitor closes the attachment: at the container's end when all is sent, or when our ends are closed
	if r.Stdout == nil && r.Stderr == nil {
		done = nil // only input: stay until the container or the client ends
	}
	select {
	case <-done:
		err = c.endOfOutput(ctx)
	case <-c.exit:
		if done != nil {
			err = p.deliver(ctx, done)
		}
	case <-ctx.Done():
	}
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", short(c.id), err)
	}
	return nil
}

// follow passes sizes on until their channel is closed. There may be none: then nothing would ever close it.
func follow(sizes <-chan Size, set func(Size)) {
	if sizes == nil {
		return
	}
	// ends when the caller closes the channel.
	go func() {
		for s := range sizes {
			if s.Width != 0 && s.Height != 0 {
				set(s)
			}
		}
	}()
}

// endOfOutput tells why an attachment's output has ended: rightly, because the container has, or not.
func (c *Container) endOfOutput(ctx context.Context) error {
	select {
	case <-c.exit:
	case <-ctx.Done():
	case <-time.After(endingTime):
		return errors.New("no more output, though the container runs: it has closed it, or this client was too far behind and was cut off")
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
