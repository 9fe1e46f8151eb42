package loop

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// stream is one output of a process: the read end of a pipe, or a terminal's master.
type stream struct {
	p    *process
	name Stream
	fd   int
	mute bool // a runtime's own messages, which are no container's output
	tty  bool // fd is a terminal's master, which the process's input uses as well
}

func (s *stream) ready(events uint32) {
	if in := s.p.in; in != nil && in.fd == s.fd && events&unix.EPOLLOUT != 0 {
		in.ready(unix.EPOLLOUT)
	}
	if events&^unix.EPOLLOUT != 0 && s.p.out[s.name] == s {
		s.read()
	}
}

// read takes what one read gives and passes it on. It returns the number of bytes, 0 when there are none now, -1 at the end.
func (s *stream) read() int {
	p := s.p
	n, err := syscall.Read(s.fd, p.l.buf[:])
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
		return 0
	case err != nil || n == 0: // EIO: the terminal's other side was closed by the last who had it
		s.end()
		return -1
	}
	data := p.l.buf[:n]
	if p.runtime != 0 && s.name == Stderr {
		p.keep(data)
	}
	if s.mute {
		return n
	}
	p.log.Write(s.name, time.Now().UnixNano(), data)
	for i := len(p.clients) - 1; i >= 0; i-- {
		if out := p.clients[i].out[s.name]; out != nil {
			out.output(data)
		}
	}
	return n
}

// end closes the stream and, with the last one, what hangs on the output.
func (s *stream) end() {
	p := s.p
	p.log.End(s.name, time.Now().UnixNano())
	if p.in != nil && p.in.fd == s.fd {
		p.in.close()
	}
	p.l.drop(s.fd)
	p.out[s.name] = nil
	for i := len(p.clients) - 1; i >= 0; i-- {
		p.clients[i].end(s.name)
	}
	p.settle()
}

// keep remembers the end of what a runtime writes to standard error.
func (p *process) keep(data []byte) {
	if len(data) > wire.MaxStderr {
		data = data[len(data)-wire.MaxStderr:]
	}
	if over := len(p.tail) + len(data) - wire.MaxStderr; over > 0 {
		p.tail = p.tail[:copy(p.tail, p.tail[over:])]
	}
	p.tail = append(p.tail, data...)
}
