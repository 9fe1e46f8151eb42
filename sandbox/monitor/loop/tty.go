package loop

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// console is where a terminal's master comes from: the socket a runtime sends it to, or the monitor itself.
type console struct {
	p      *process
	fd     int // listening socket, or -1
	name   string
	master int // to be handed to the daemon (PassIO), or -1
	pass   bool
	stdin  bool
	once   bool
}

// listenConsole makes the socket for a runtime. Nobody needs to listen to it while the runtime works: the connection and the
// descriptor in it wait in the socket's queue.
func listenConsole(p *process, s *wire.Spawn) (*console, error) {
	name := s.ConsoleSocket
	for i := range len(name) {
		if name[i] == '/' {
			return nil, refusal("console socket "+name+": not a plain name", syscall.EINVAL)
		}
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, failure("console socket", err)
	}
	syscall.Unlink(name)
	if err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}); err == nil {
		err = syscall.Listen(fd, 1)
	}
	if err != nil {
		syscall.Close(fd)
		return nil, failure("console socket "+name, err)
	}
	return &console{p: p, fd: fd, name: name, master: -1, pass: s.PassIO, stdin: s.Stdin, once: s.StdinOnce}, nil
}

// finish takes the master that the runtime has sent before it ended.
func (c *console) finish() error {
	if c.fd < 0 {
		return nil
	}
	peer, _, err := syscall.Accept4(c.fd, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
	if err != nil {
		return failure("terminal from the runtime", err)
	}
	defer syscall.Close(peer)
	var b [256]byte
	var oob [64]byte
	_, n, _, _, err := syscall.Recvmsg(peer, b[:], oob[:], unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return failure("terminal from the runtime", err)
	}
	fds := rights(oob[:n])
	if len(fds) != 1 {
		closeAll(fds)
		return refusal("terminal from the runtime: no descriptor", syscall.EINVAL)
	}
	c.closeSocket()
	if s := c.p.out[Stderr]; s != nil { // the runtime's own messages
		c.p.l.drop(s.fd)
		c.p.out[Stderr] = nil
	}
	return c.take(fds[0])
}

// take uses a master: keeps it for the daemon, or reads and writes it.
func (c *console) take(master int) error {
	if c.pass {
		c.master = master
		return nil
	}
	p := c.p
	if err := p.listen(Stdout, master); err != nil {
		syscall.Close(master)
		return failure("watch terminal", err)
	}
	p.out[Stdout].tty = true
	if c.stdin {
		p.in = &stdin{p: p, fd: master, once: c.once, tty: true}
	}
	return nil
}

// handOver gives the master that is the daemon's.
func (c *console) handOver() []int {
	if c.master < 0 {
		return nil
	}
	fds := []int{c.master}
	c.master = -1
	return fds
}

func (c *console) closeSocket() {
	if c.fd >= 0 {
		syscall.Close(c.fd)
		syscall.Unlink(c.name)
		c.fd = -1
	}
}

// close gives back what has not been used.
func (c *console) close() {
	c.closeSocket()
	closeAll(c.handOver())
}

// terminal makes a terminal for a process that is started without a runtime. It returns the slave.
func (p *process) terminal(s *wire.Spawn) (slave int, err error) {
	master, err := openRetry("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, failure("open /dev/ptmx", err)
	}
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = openRetry("/dev/pts/"+itoa(int(n)), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		syscall.Close(master)
		return -1, failure("make terminal", err)
	}
	p.console = &console{p: p, fd: -1, master: -1, pass: s.PassIO, stdin: s.Stdin, once: s.StdinOnce}
	if err = p.console.take(master); err != nil {
		syscall.Close(slave)
		return -1, err
	}
	return slave, nil
}

// resize tells a terminal its size in characters.
func (l *loop) resize(id string, cols, rows uint16) error {
	p := l.find(id)
	if p == nil {
		return refusal("resize "+id+": no such process", syscall.ENOENT)
	}
	s := p.out[Stdout]
	if s == nil || !s.tty {
		return refusal("resize "+id+": no terminal here", syscall.ENOTTY)
	}
	if err := unix.IoctlSetWinsize(s.fd, unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows}); err != nil {
		return failure("resize "+id, err)
	}
	return nil
}
