package bridge

import (
	"fmt"
	"iter"
	"os"
	"runtime"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a blocking netlink socket for netlink.Conn. The library's own one is registered with the runtime's poller
// and enters another namespace with a thread of its own: for a program that asks a dozen questions and ends, that
// shows (hack/decisions/0004).
type socket struct {
	fd  int
	buf []byte
}

//lint:ignore SA1019 The type is the only way to bring a socket of one's own; hack/decisions/0004 says why we do.
var _ netlink.Socket = (*socket)(nil)

// maxMessages is the most the kernel puts into one answer, in bytes (NLMSG_GOODSIZE and netlink_dump: 32 KiB).
const maxMessages = 1 << 15

// dial opens a socket of a netlink family in the namespace behind the descriptor; 0 means the current one.
func dial(family, netns int) (*netlink.Conn, error) {
	fd, err := socketIn(family, netns)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	sa, err := unix.Getsockname(fd)
	name, ok := sa.(*unix.SockaddrNetlink)
	if err != nil || !ok {
		unix.Close(fd)
		return nil, fmt.Errorf("name of netlink socket: %w", err)
	}
	// Only errors' texts suffer without it.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return netlink.NewConn(&socket{fd: fd}, name.Pid), nil
}

// socketIn makes a socket. A socket stays in the namespace it was made in; the thread comes back.
func socketIn(family, netns int) (int, error) {
	open := func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	}
	if netns == 0 {
		return open()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return -1, err
	}
	defer home.Close()
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("setns: %w", err)
	}
	fd, err := open()
	if herr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); herr != nil {
		// The thread stays locked, and ends with its goroutine.
		return -1, fmt.Errorf("setns back: %w", herr)
	}
	runtime.UnlockOSThread()
	return fd, err
}

// Close implements netlink.Socket.
func (s *socket) Close() error { return unix.Close(s.fd) }

// Send implements netlink.Socket.
func (s *socket) Send(m netlink.Message) error { return s.SendMessages([]netlink.Message{m}) }

// SendMessages implements netlink.Socket: all in one system call.
func (s *socket) SendMessages(ms []netlink.Message) error {
	var b []byte
	for _, m := range ms {
		one, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		b = append(b, one...)
	}
	return os.NewSyscallError("sendto", unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// ReceiveIter implements netlink.Socket.
func (s *socket) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		ms, err := s.Receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range ms {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// Receive implements netlink.Socket: the messages of one datagram.
func (s *socket) Receive() ([]netlink.Message, error) {
	if s.buf == nil {
		s.buf = make([]byte, maxMessages)
	}
	n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
	for err == unix.EINTR {
		n, _, err = unix.Recvfrom(s.fd, s.buf, 0)
	}
	if err != nil {
		return nil, os.NewSyscallError("recvfrom", err)
	}
	raw, err := syscall.ParseNetlinkMessage(s.buf[:n])
	if err != nil {
		return nil, err
	}
	out := make([]netlink.Message, len(raw))
	for i, m := range raw {
		out[i] = netlink.Message{
			Header: netlink.Header{
				Length: m.Header.Len, Type: netlink.HeaderType(m.Header.Type), Flags: netlink.HeaderFlags(m.Header.Flags),
				Sequence: m.Header.Seq, PID: m.Header.Pid,
			},
			Data: append([]byte(nil), m.Data...),
		}
	}
	return out, nil
}
