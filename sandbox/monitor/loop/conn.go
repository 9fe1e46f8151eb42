package loop

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// maxQueued bounds the packets kept for a daemon that does not read. One that is that far behind is cut off; it asks with
// OpList when it is back.
const maxQueued = 1024

// maxHeld bounds the descriptors kept by OpHold.
const maxHeld = 64

// listPage is the number of processes in one answer to OpList, which keeps it far below wire.MaxPacket.
const listPage = 256

// listener is the loop as the source behind the listening socket.
type listener loop

// ready takes a new connection in place of the present one: there is one daemon, and the newest is it.
func (s *listener) ready(uint32) {
	l := (*loop)(s)
	const flags = syscall.SOCK_CLOEXEC | syscall.SOCK_NONBLOCK
	fd, _, err := syscall.Accept4(l.opts.Listen, flags)
	if err == syscall.EMFILE || err == syscall.ENFILE {
		// The connection would be reported without end. One descriptor is lent to turn it away.
		syscall.Close(l.null)
		if fd, _, err := syscall.Accept4(l.opts.Listen, flags); err == nil {
			syscall.Close(fd)
		}
		l.null, _ = openRetry("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		return
	}
	if err != nil {
		return
	}
	if l.conn != nil {
		l.conn.close()
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, wire.MaxPacket)
	c := &conn{l: l, fd: fd}
	if err := l.watch(fd, unix.EPOLLIN, c); err != nil {
		syscall.Close(fd)
		return
	}
	l.conn = c
}

// packet waits to be sent.
type packet struct {
	data []byte
	fd   int // or -1; closed when sent
}

// conn is the connection to a daemon. fd is -1 once it is closed; whoever still holds it may go on using it without effect.
type conn struct {
	l     *loop
	fd    int
	queue []packet
}

func (c *conn) ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	if events&^unix.EPOLLOUT == 0 || c.fd < 0 {
		return
	}
	n, _, err := syscall.Recvfrom(c.fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	if err != nil || n <= 0 || n > wire.MaxPacket {
		c.close()
		return
	}
	c.l.garbage += 1024 + 4*n
	buf := c.l.buf[:]
	if n > len(buf) {
		buf = make([]byte, n)
	}
	n, oobn, flags, _, err := syscall.Recvmsg(c.fd, buf, c.l.oob[:], unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return
	}
	fds := rights(c.l.oob[:oobn])
	var req wire.Request
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = syscall.EMSGSIZE
	} else {
		err = wire.Decode(buf[:n], &req)
	}
	if err != nil {
		c.answer(req.Seq, err)
	} else {
		fds = c.handle(&req, fds)
	}
	closeAll(fds)
}

// handle does what a request asks for. It returns the descriptors that nobody has taken.
func (c *conn) handle(req *wire.Request, fds []int) []int {
	l := c.l
	switch req.Op {
	case wire.OpHello:
		c.send(&wire.Reply{V: wire.Version, Seq: req.Seq, Pid: syscall.Getpid()}, nil)
	case wire.OpSpawn:
		l.spawn(c, req, fds)
		return nil
	case wire.OpSignal:
		c.answer(req.Seq, l.signal(req.ID, syscall.Signal(req.Signal)))
	case wire.OpReopen:
		c.answer(req.Seq, l.reopen(req.ID))
	case wire.OpResize:
		c.answer(req.Seq, l.resize(req.ID, req.Cols, req.Rows))
	case wire.OpAttach:
		c.answer(req.Seq, l.attach(req, fds))
		return nil
	case wire.OpHold:
		return c.hold(req, fds)
	case wire.OpList:
		c.list(req)
	case wire.OpShutdown:
		l.shutdown(c, req.Seq)
	default:
		c.answer(req.Seq, refusal("operation "+string(req.Op)+": unknown to this monitor", syscall.ENOSYS))
	}
	return fds
}

// hold keeps a descriptor under a name; an earlier one of that name is closed.
func (c *conn) hold(req *wire.Request, fds []int) []int {
	old, ok := c.l.held[req.Name]
	switch {
	case len(fds) != 1 || req.Name == "":
		c.answer(req.Seq, refusal("hold: want one name and one descriptor", syscall.EINVAL))
		return fds
	case !ok && len(c.l.held) >= maxHeld:
		c.answer(req.Seq, refusal("hold "+req.Name+": too many", syscall.EMFILE))
		return fds
	case ok:
		syscall.Close(old)
	}
	c.l.held[req.Name] = fds[0]
	c.answer(req.Seq, nil)
	return fds[1:]
}

// list answers with a page of the processes. Exits told here count as told.
func (c *conn) list(req *wire.Request) {
	r := &wire.Reply{V: wire.Version, Seq: req.Seq}
	procs := c.l.procs
	if req.Skip > 0 && req.Skip <= len(procs) {
		procs = procs[req.Skip:]
	}
	if len(procs) > listPage {
		procs, r.More = procs[:listPage], true
	}
	for _, p := range procs {
		r.List = append(r.List, wire.Process{ID: p.id, Pid: p.pid, Exit: p.exit})
	}
	if !c.send(r, nil) || r.More {
		return
	}
	for i := len(c.l.procs) - 1; i >= 0; i-- {
		p := c.l.procs[i]
		p.told = p.told || p.exit != nil
		p.settle()
	}
}

// answer sends the bare reply to a request.
func (c *conn) answer(seq uint64, err error) {
	r := &wire.Reply{V: wire.Version, Seq: seq}
	if err != nil {
		r.Err = asError(err)
	}
	c.send(r, nil)
}

// send sends a packet, or queues it when the daemon is behind, and says whether it did. The descriptors, at most one, are
// closed in any case.
func (c *conn) send(r *wire.Reply, fds []int) bool {
	p := packet{fd: -1}
	if len(fds) > 0 {
		p.fd = fds[0]
	}
	var err error
	if p.data, err = wire.Append(c.l.packet[:0], r); err != nil || c.fd < 0 {
		closeAll(fds)
		return false
	}
	c.l.packet = p.data[:0]
	if len(c.queue) == 0 && c.transmit(p) {
		return c.fd >= 0
	}
	if c.fd < 0 {
		return false
	}
	if len(c.queue) >= maxQueued {
		closeAll(fds)
		c.close()
		return false
	}
	p.data = append([]byte(nil), p.data...)
	c.queue = append(c.queue, p)
	if len(c.queue) == 1 {
		c.l.rewatch(c.fd, unix.EPOLLIN|unix.EPOLLOUT)
	}
	return true
}

// transmit sends a packet if the socket takes it, and says whether it is done with. An error ends the connection.
func (c *conn) transmit(p packet) bool {
	var oob []byte
	if p.fd >= 0 {
		oob = syscall.UnixRights(p.fd)
	}
	err := syscall.EINTR
	for err == syscall.EINTR {
		err, _ = syscall.Sendmsg(c.fd, p.data, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT).(syscall.Errno)
	}
	if err == syscall.EAGAIN {
		return false
	}
	if p.fd >= 0 {
		syscall.Close(p.fd)
	}
	if err != 0 {
		c.close()
	}
	return true
}

// flush sends what is queued as far as the socket takes it.
func (c *conn) flush() {
	for len(c.queue) > 0 {
		if !c.transmit(c.queue[0]) {
			return
		}
		if c.fd < 0 {
			return
		}
		c.queue = c.queue[1:]
	}
	c.queue = nil
	c.l.rewatch(c.fd, unix.EPOLLIN)
}

// close ends the connection. Processes stay.
func (c *conn) close() {
	if c.fd < 0 {
		return
	}
	c.l.drop(c.fd)
	c.fd = -1
	for _, p := range c.queue {
		if p.fd >= 0 {
			syscall.Close(p.fd)
		}
	}
	c.queue = nil
	if c.l.conn == c {
		c.l.conn = nil
	}
}

// rights takes the descriptors out of a control message.
func rights(oob []byte) []int {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range msgs {
		if got, err := syscall.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// closeAll closes descriptors.
func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}
