package monitor

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// sendTime bounds how long a packet may wait for a monitor that does not read.
const sendTime = 10 * time.Second

// socket is a connected SOCK_SEQPACKET socket in the runtime's poller.
type socket struct {
	f    *os.File
	raw  syscall.RawConn
	mu   sync.Mutex // of sends
	buf  []byte     // of receive
	oob  []byte
	once sync.Once
}

// lockDir makes and locks the lock file. It fails with fs.ErrExist when somebody has the lock.
func lockDir(dir *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), wire.LockName, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", wire.LockName, err)
	}
	f := os.NewFile(uintptr(fd), wire.LockName)
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	// A lock of the open file description: it goes to the monitor with the descriptor, and can be asked after without being taken.
	if err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		f.Close()
		if err == unix.EAGAIN || err == unix.EACCES {
			err = fs.ErrExist
		}
		return nil, fmt.Errorf("lock %s: %w", wire.LockName, err)
	}
	return f, nil
}

// address names the socket through an open directory: socket paths end at 107 bytes.
func address(dir *os.File) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + wire.SocketName}
}

// listen makes the monitor's listening socket. One left by an earlier monitor is replaced; the lock says that it is dead.
func listen(dir *os.File) (*os.File, error) {
	if err := unix.Unlinkat(int(dir.Fd()), wire.SocketName, 0); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("remove old %s: %w", wire.SocketName, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), wire.SocketName)
	if err = unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, address(dir))
	}
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on %s: %w", wire.SocketName, err)
	}
	return f, nil
}

// dial connects to the socket in a directory. The kernel queues the connection, whether or not the monitor is up.
func dial(dir *os.File) (*socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, wire.MaxPacket)
	if err = unix.Connect(fd, address(dir)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect %s: %w", wire.SocketName, err)
	}
	f := os.NewFile(uintptr(fd), wire.SocketName)
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &socket{f: f, raw: raw, buf: make([]byte, 1024), oob: make([]byte, unix.CmsgSpace(4*4))}, nil
}

// send sends one request with its descriptors.
func (s *socket) send(ctx context.Context, req *wire.Request, files []*os.File) error {
	if len(files) > wire.MaxFiles {
		return fmt.Errorf("%d descriptors: %w", len(files), unix.EINVAL)
	}
	b, err := wire.Encode(req)
	if err != nil {
		return err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		c, err := f.SyscallConn()
		if err == nil {
			err = c.Control(func(fd uintptr) { fds[i] = int(fd) }) // Fd would make it blocking
		}
		if err != nil {
			return err
		}
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline, ok := ctx.Deadline()
	if limit := time.Now().Add(sendTime); !ok || limit.Before(deadline) {
		deadline = limit
	}
	if err = s.f.SetWriteDeadline(deadline); err != nil {
		return ErrGone
	}
	var sent error
	err = s.raw.Write(func(fd uintptr) bool {
		for {
			sent = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if sent != unix.EINTR {
				return sent != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return err
	case sent == unix.EPIPE || sent == unix.ECONNRESET:
		return ErrGone
	}
	runtime.KeepAlive(files)
	return sent
}

// receive waits for the next packet.
func (s *socket) receive() (answer, error) {
	var a answer
	var n, oobn int
	var got error
	err := s.raw.Read(func(fd uintptr) bool {
		n, oobn, got = s.recvmsg(int(fd))
		return got != unix.EAGAIN
	})
	if err == nil {
		err = got
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return a, err
	}
	if oobn > 0 {
		a.files = files(s.oob[:oobn])
	}
	if err = wire.Decode(s.buf[:n], &a.reply); err != nil {
		closeFiles(a.files)
		return answer{}, err
	}
	return a, nil
}

// recvmsg takes a packet into s.buf, which it makes larger where need be; most are small and there are many connections.
func (s *socket) recvmsg(fd int) (n, oobn int, err error) {
	for {
		n, _, err = unix.Recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if err == nil && n > 0 {
			if n > wire.MaxPacket {
				return 0, 0, unix.EMSGSIZE
			}
			if n > len(s.buf) || len(s.buf) > 16<<10 && n <= 1024 {
				s.buf = make([]byte, max(n, 1024))
			}
			n, oobn, _, _, err = unix.Recvmsg(fd, s.buf, s.oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		}
		if err != unix.EINTR {
			return n, oobn, err
		}
	}
}

// files takes the descriptors out of a control message.
func files(oob []byte) []*os.File {
	var out []*os.File
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for i := range msgs {
		fds, _ := unix.ParseUnixRights(&msgs[i])
		for _, fd := range fds {
			unix.SetNonblock(fd, true) // for the runtime's poller: reads end with Close and deadlines
			out = append(out, os.NewFile(uintptr(fd), "terminal"))
		}
	}
	return out
}

// shutdown makes receive end; it may be called at any time.
func (s *socket) shutdown() {
	s.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
}

// close gives the descriptor back.
func (s *socket) close() { s.once.Do(func() { s.f.Close() }) }
