package loop

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// inputSize is what is taken from a client at once, and thus what is kept at most while the process does not read.
const inputSize = 4 << 10

// attachment is a client's three descriptors: -1 or nil where it has none. It gets all output from now on. One that reads too
// slowly is cut off rather than waited for. It ends when the process is dead or its output has ended.
type attachment struct {
	p   *process
	in  int
	out [2]*sink
	on  bool // in is in the epoll set
}

// attach adds a client. It takes fds.
func (l *loop) attach(req *wire.Request, fds []int) error {
	given, ok := clientFDs(req, fds)
	if !ok {
		closeAll(fds)
		return refusal("attach "+req.ID+": want a descriptor for each stream", syscall.EINVAL)
	}
	p := l.find(req.ID)
	if p == nil || p.exit != nil || p.out[0] == nil && p.out[1] == nil {
		closeAll(fds)
		return refusal("attach "+req.ID+": no such process with output", syscall.ENOENT)
	}
	a := &attachment{p: p, in: given[0]}
	p.clients = append(p.clients, a)
	for i, fd := range given[1:] {
		if fd >= 0 && p.out[i] != nil {
			a.out[i] = newSink(a, fd)
		} else if fd >= 0 { // a terminal's standard error, or one that has ended
			syscall.Close(fd)
		}
	}
	if a.in >= 0 && p.in == nil {
		syscall.Close(a.in)
		a.in = -1
	}
	if p.in != nil && len(p.in.pending) == 0 {
		a.listen(true)
	}
	return nil
}

// clientFDs tells which descriptor is for which stream, -1 for none; ok says that they are as many as asked for.
func clientFDs(req *wire.Request, fds []int) (given [3]int, ok bool) {
	n := 0
	for i, want := range [...]bool{req.Stdin, req.Stdout, req.Stderr} {
		given[i] = -1
		if want && n < len(fds) {
			given[i] = fds[n]
		}
		if want {
			n++
		}
	}
	return given, n == len(fds)
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

// end says that a stream of the process has ended.
func (a *attachment) end(st Stream) {
	if s := a.out[st]; s != nil {
		a.out[st] = nil
		s.finish()
	}
	if a.p.out[0] == nil && a.p.out[1] == nil {
		a.finish()
	}
}

// finish ends the attachment: what waits for the client is still sent.
func (a *attachment) finish() {
	a.leave()
	for i, s := range a.out {
		if s != nil {
			a.out[i] = nil
			s.finish()
		}
	}
}

// cut ends the attachment at once.
func (a *attachment) cut() {
	a.leave()
	for i, s := range a.out {
		if s != nil {
			a.out[i] = nil
			s.close()
		}
	}
}

// leave takes the attachment away from its process.
func (a *attachment) leave() {
	p := a.p
	for i, c := range p.clients {
		if c == a {
			p.clients = append(p.clients[:i], p.clients[i+1:]...)
			break
		}
	}
	a.endInput()
}

// lost says that the client reads an output no more. The attachment ends with its last descriptor.
func (a *attachment) lost(s *sink) {
	for i := range a.out {
		if a.out[i] == s {
			a.out[i] = nil
		}
	}
	if a.in < 0 && a.out[0] == nil && a.out[1] == nil {
		a.leave()
	}
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
