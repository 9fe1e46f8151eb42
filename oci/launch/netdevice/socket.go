package netdevice

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a routing netlink socket of one network namespace.
type socket struct {
	fd  int
	seq uint32
}

func open() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &socket{fd: fd}, nil
}

// openIn opens a socket in another namespace, with a thread that enters it and ends there.
func openIn(ns *os.File) (*socket, error) {
	type result struct {
		s   *socket
		err error
	}
	c := make(chan result)
	// ends when the socket is open; its thread, which is in the wrong namespace by then, ends with it
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			c <- result{nil, os.NewSyscallError("setns", err)}
			return
		}
		s, err := open()
		c <- result{s, err}
	}()
	r := <-c
	return r.s, r.err
}

func (s *socket) close() { unix.Close(s.fd) }

// attr is one routing attribute, aligned.
func attr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func text(s string) []byte { return append([]byte(s), 0) }

func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// ask sends a request and returns what comes until the acknowledgement or the end of the list.
func (s *socket) ask(kind uint16, flags uint16, body []byte) ([]syscall.NetlinkMessage, error) {
	s.seq++
	b := number(uint32(unix.SizeofNlMsghdr + len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = append(append(b, number(s.seq)...), number(0)...)
	if err := unix.Sendto(s.fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var all []syscall.NetlinkMessage
	for {
		some, done, err := s.receive()
		all = append(all, some...)
		if done || err != nil {
			return all, err
		}
	}
}

func (s *socket) receive() (list []syscall.NetlinkMessage, done bool, err error) {
	n, _, err := unix.Recvfrom(s.fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
	for err == unix.EINTR {
		n, _, err = unix.Recvfrom(s.fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
	}
	if err != nil {
		return nil, true, os.NewSyscallError("recvfrom", err)
	}
	buf := make([]byte, n)
	if n, _, err = unix.Recvfrom(s.fd, buf, 0); err != nil {
		return nil, true, os.NewSyscallError("recvfrom", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return nil, true, fmt.Errorf("netlink: %w", err)
	}
	for _, m := range msgs {
		switch {
		case m.Header.Seq != s.seq:
		case m.Header.Type == unix.NLMSG_DONE:
			return list, true, nil
		case m.Header.Type == unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return list, true, io.ErrUnexpectedEOF
			}
			if e := int32(binary.NativeEndian.Uint32(m.Data)); e != 0 {
				return list, true, syscall.Errno(-e)
			}
			return list, true, nil
		default:
			list = append(list, m)
		}
	}
	return list, false, nil
}
