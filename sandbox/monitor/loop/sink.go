package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// The sizes to which the pipe to an attached client is raised, the first that is allowed. fs/pipe-max-size, by default 1 MiB,
// allows everybody the second; the first needs CAP_SYS_RESOURCE.
const (
	attachPipe      = 4 << 20
	attachPipeSmall = 1 << 20
)

// spillMax is how far a client may be behind, beyond its pipe, before it is cut off.
const spillMax = 16 << 20

// sink is the way to one output of an attached client. It never waits: what the client's pipe does not take goes to a file in
// memory, which exists only while there is something in it, and from there to the pipe when that has room again.
//
//	output ──> pipe ──> client
//	    └─> spill ─┘       in order: while there is a spill, all output goes through it
type sink struct {
	a     *attachment
	fd    int
	spill int   // memfd, or -1
	r, w  int64 // what is between these offsets of spill waits
	last  bool  // nothing more comes: close once all is sent
}

// newSink takes a descriptor. It is watched to notice that the client has gone; the set refuses files, which never do.
func newSink(a *attachment, fd int) *sink {
	for _, size := range [...]int{attachPipe, attachPipeSmall} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err == nil {
			break
		}
	}
	s := &sink{a: a, fd: fd, spill: -1}
	a.p.l.watch(fd, 0, s)
	return s
}

// ready: the client has gone, or reads again.
func (s *sink) ready(events uint32) {
	if s.fd < 0 {
		return
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 && broken(s.fd) {
		s.gone()
		return
	}
	if events&unix.EPOLLOUT != 0 {
		s.drain()
	}
}

// broken says whether nobody reads from a pipe or socket any more.
func broken(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
}

// output passes data on. A client that is too far behind is cut off.
func (s *sink) output(data []byte) {
	if s.w == s.r {
		n, ok := s.send(data)
		if !ok {
			s.gone()
			return
		}
		data = data[n:]
	}
	if len(data) > 0 && !s.keep(data) {
		s.a.cut()
	}
}

// send writes what the pipe takes now. ok is false when the client has gone.
func (s *sink) send(data []byte) (sent int, ok bool) {
	for sent < len(data) {
		n, err := syscall.Write(s.fd, data[sent:])
		switch err {
		case nil:
			sent += n
		case syscall.EINTR:
		case syscall.EAGAIN:
			return sent, true
		default:
			return sent, false
		}
	}
	return sent, true
}

// keep adds data to the spill, and says whether there was room.
func (s *sink) keep(data []byte) bool {
	if s.w-s.r+int64(len(data)) > spillMax {
		return false
	}
	if s.spill < 0 {
		fd, err := unix.MemfdCreate("attach", unix.MFD_CLOEXEC)
		if err != nil {
			return false
		}
		s.spill = fd
	}
	if s.w == s.r {
		s.a.p.l.rewatch(s.fd, unix.EPOLLOUT)
	}
	for len(data) > 0 {
		n, err := syscall.Pwrite(s.spill, data, s.w)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return false
		}
		s.w += int64(n)
		data = data[n:]
	}
	return true
}

// drain sends from the spill, and gives its memory back.
func (s *sink) drain() {
	buf := s.a.p.l.buf[:]
	for s.r < s.w {
		n, err := syscall.Pread(s.spill, buf[:min(int64(len(buf)), s.w-s.r)], s.r)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			s.gone()
			return
		}
		sent, ok := s.send(buf[:n])
		if !ok {
			s.gone()
			return
		}
		unix.Fallocate(s.spill, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.r, int64(sent))
		s.r += int64(sent)
		if sent < n {
			return
		}
	}
	syscall.Close(s.spill)
	s.spill, s.r, s.w = -1, 0, 0
	s.a.p.l.rewatch(s.fd, 0)
	if s.last {
		s.close()
	}
}

// finish closes the way once all is sent.
func (s *sink) finish() {
	s.last = true
	if s.r == s.w {
		s.close()
	}
}

// gone: the client has closed its side.
func (s *sink) gone() {
	s.close()
	s.a.lost(s)
}

// close gives everything back.
func (s *sink) close() {
	s.a.p.l.drop(s.fd)
	if s.spill >= 0 {
		syscall.Close(s.spill)
	}
	s.fd, s.spill, s.r, s.w = -1, -1, 0, 0
}
