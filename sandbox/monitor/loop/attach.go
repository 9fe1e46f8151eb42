package loop

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// The sizes to which the pipe to an attached client is raised, the first that is allowed: how far a client may be behind before
// it is cut off. fs/pipe-max-size, by default 1 MiB, allows everybody the second; the first needs CAP_SYS_RESOURCE.
const (
	attachPipe      = 4 << 20
	attachPipeSmall = 1 << 20
)

// inputSize is what is taken from a client at once, and thus what is kept at most while the process does not read.
const inputSize = 4 << 10

// attachment is a client's three descriptors, -1 where it has none. It gets all output from now on. One that reads too slowly
// is cut off rather than waited for. Its descriptors are closed when the process is dead or its output has ended.
type attachment struct {
	p   *process
	in  int
	out [2]int
	on  bool // in is in the epoll set
}

// attach adds a client. It takes fds.
func (l *loop) attach(req *wire.Request, fds []int) error {
	p := l.find(req.ID)
	a := &attachment{p: p, in: -1, out: [2]int{-1, -1}}
	rest := fds
	for _, want := range []struct {
		on bool
		fd *int
	}{{req.Stdin, &a.in}, {req.Stdout, &a.out[Stdout]}, {req.Stderr, &a.out[Stderr]}} {
		if want.on && len(rest) > 0 {
			*want.fd, rest = rest[0], rest[1:]
		} else if want.on {
			closeAll(fds)
			return refusal("attach "+req.ID+": descriptors missing", syscall.EINVAL)
		}
	}
	closeAll(rest)
	if p == nil || p.exit != nil || p.out[0] == nil && p.out[1] == nil {
		closeAll(fds[:len(fds)-len(rest)])
		return refusal("attach "+req.ID+": no such process with output", syscall.ENOENT)
	}
	p.clients = append(p.clients, a)
	a.watch()
	return nil
}

// watch puts the descriptors in the set: input to be read, outputs to notice that the client has gone.
func (a *attachment) watch() {
	l := a.p.l
	for i, fd := range a.out {
		if fd < 0 {
			continue
		}
		for _, size := range [...]int{attachPipe, attachPipeSmall} {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err == nil {
				break
			}
		}
		if a.p.out[i] == nil { // a terminal's standard error, or one that has ended
			syscall.Close(fd)
			a.out[i] = -1
			continue
		}
		l.watch(fd, 0, (*clientOutput)(a)) // refused for files, which are always ready
	}
	if a.in >= 0 && a.p.in == nil {
		syscall.Close(a.in)
		a.in = -1
	}
	if a.in >= 0 && len(a.p.in.pending) == 0 {
		a.listen(true)
	}
}

// listen starts or stops listening to the client. Stopping takes the descriptor out of the set, for a client that has hung up
// would be reported without end.
func (a *attachment) listen(on bool) {
	l := a.p.l
	switch {
	case a.in < 0 || a.on == on:
	case on:
		if err := l.watch(a.in, unix.EPOLLIN, (*clientInput)(a)); err != nil {
			a.endInput()
			return
		}
		a.on = true
	default:
		delete(l.sources, a.in)
		syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_DEL, a.in, nil)
		a.on = false
	}
}

// clientInput is an attachment as the source behind its input.
type clientInput attachment

func (s *clientInput) ready(uint32) {
	a := (*attachment)(s)
	if a.in < 0 || a.p.in == nil {
		return
	}
	buf := a.p.l.buf[:inputSize]
	n, err := syscall.Read(a.in, buf)
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
	case err != nil || n == 0:
		a.endInput()
	default:
		a.p.in.write(buf[:n])
	}
}

// endInput closes the client's input; with StdinOnce that closes the process's too.
func (a *attachment) endInput() {
	if a.in < 0 {
		return
	}
	fd := a.in
	a.in = -1
	a.p.l.drop(fd)
	if a.p.in != nil && a.p.in.once {
		a.p.in.finish()
	}
}

// clientOutput is an attachment as the source behind its outputs: one reports when the client has closed its side.
type clientOutput attachment

func (s *clientOutput) ready(events uint32) {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		a := (*attachment)(s)
		for i, fd := range a.out {
			if fd >= 0 && broken(fd) {
				a.closeOutput(Stream(i))
			}
		}
	}
}

// broken says whether nobody reads from a pipe or socket any more.
func broken(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
}

// output passes data on. What the client's pipe does not take at once ends the attachment.
func (a *attachment) output(st Stream, data []byte) {
	fd := a.out[st]
	for fd >= 0 && len(data) > 0 {
		n, err := syscall.Write(fd, data)
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EPIPE {
			a.closeOutput(st)
			return
		}
		if err != nil {
			a.close()
			return
		}
		data = data[n:]
	}
}

// end says that a stream of the process has ended.
func (a *attachment) end(st Stream) {
	if a.p.out[0] == nil && a.p.out[1] == nil {
		a.close()
		return
	}
	a.closeOutput(st)
}

// closeOutput closes one output; the attachment ends with its last descriptor.
func (a *attachment) closeOutput(st Stream) {
	a.p.l.drop(a.out[st])
	a.out[st] = -1
	if a.in < 0 && a.out[0] < 0 && a.out[1] < 0 {
		a.close()
	}
}

// close ends the attachment.
func (a *attachment) close() {
	p := a.p
	for i, c := range p.clients {
		if c == a {
			p.clients = append(p.clients[:i], p.clients[i+1:]...)
			break
		}
	}
	p.l.drop(a.out[Stdout])
	p.l.drop(a.out[Stderr])
	a.out = [2]int{-1, -1}
	a.endInput()
}

// stdin is the way to a process's standard input: the write end of a pipe, or the terminal's master, which then is also a
// stream and belongs to that.
type stdin struct {
	p       *process
	fd      int
	once    bool
	tty     bool
	closing bool // to be closed once pending is written
	pending []byte
}

// ready: the process reads again, or has closed its input.
func (s *stdin) ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		s.close()
		return
	}
	if len(s.pending) > 0 {
		rest := s.pending
		s.pending = nil
		s.write(rest)
	}
}

// write passes input on. What the pipe does not take is kept, and clients are not listened to until it is gone.
func (s *stdin) write(data []byte) {
	for len(data) > 0 {
		n, err := syscall.Write(s.fd, data)
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			break
		}
		if err != nil {
			s.close()
			return
		}
		data = data[n:]
	}
	full := len(data) > 0
	if full {
		s.pending = append([]byte(nil), data...)
	} else if s.closing {
		s.close()
		return
	}
	s.wantWrite(full)
	for i := len(s.p.clients) - 1; i >= 0; i-- {
		s.p.clients[i].listen(!full)
	}
}

// wantWrite asks for an event when the descriptor takes data again.
func (s *stdin) wantWrite(on bool) {
	events := uint32(0)
	if on {
		events = unix.EPOLLOUT
	}
	if s.tty {
		events |= unix.EPOLLIN
	}
	s.p.l.rewatch(s.fd, events)
}

// finish closes a pipe when all is written. A terminal stays: its end of file is a character, which is the client's to send.
func (s *stdin) finish() {
	switch {
	case s.tty:
	case len(s.pending) > 0:
		s.closing = true
	default:
		s.close()
	}
}

// close ends the input, and that of the clients.
func (s *stdin) close() {
	p := s.p
	if p.in != s {
		return
	}
	p.in = nil
	if !s.tty {
		p.l.drop(s.fd)
	}
	for i := len(p.clients) - 1; i >= 0; i-- {
		p.clients[i].endInput()
	}
}
