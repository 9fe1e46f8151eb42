package ns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Link is an interface of a network namespace and what went through it, in bytes and packets since it was made.
type Link struct {
	Name                 string
	RxBytes, TxBytes     uint64
	RxPackets, TxPackets uint64
	RxErrors, TxErrors   uint64
	RxDropped, TxDropped uint64
}

// Counter reads the interfaces of one network namespace. It holds a netlink socket that was made inside, so that a
// reading takes no thread and no setns; that socket keeps the namespace alive until Close.
type Counter struct {
	mu sync.Mutex
	fd int
}

// OpenCounter makes a counter for the namespace pinned at path. The caller closes it.
func OpenCounter(path string) (*Counter, error) {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(ns)
	type result struct {
		fd  int
		err error
	}
	c := make(chan result, 1)
	// ends at once. It never unlocks its thread, so the runtime throws that away.
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread can't be thrown away: it would stay in the pod's network. Have another made.
			defer runtime.UnlockOSThread()
			fd, err := openElsewhere(ns)
			c <- result{fd, err}
			return
		}
		fd, err := openInside(ns)
		c <- result{fd, err}
	}()
	r := <-c
	if r.err != nil {
		return nil, fmt.Errorf("netlink socket in %s: %w", path, r.err)
	}
	return &Counter{fd: r.fd}, nil
}

// openElsewhere is openInside on a thread that is not the caller's, which holds the first one.
func openElsewhere(ns int) (fd int, err error) {
	done := make(chan struct{})
	// ends at once, and its thread with it.
	go func() {
		runtime.LockOSThread()
		defer close(done)
		fd, err = openInside(ns)
	}()
	<-done
	return fd, err
}

func openInside(ns int) (int, error) {
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	// The kernel answers at once; the bound is for a kernel that does not.
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	return fd, nil
}

// Close gives the socket back. A counter that is closed reads nothing.
func (c *Counter) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

// ReadBuffer is what Read wants: with less the kernel may cut a message (netlink(7)).
const ReadBuffer = 32 << 10

// Links is Read with a buffer of its own.
func (c *Counter) Links() ([]Link, error) { return c.Read(make([]byte, ReadBuffer)) }

// Read lists the interfaces by a dump of RTM_GETLINK (rtnetlink(7)). buf is scratch space of ReadBuffer bytes.
func (c *Counter) Read(buf []byte) ([]Link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil, errors.New("counter is closed")
	}
	req := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], unix.RTM_GETLINK)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(c.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for links: %w", err)
	}
	var out []Link
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err != nil {
			return nil, fmt.Errorf("read links: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, fmt.Errorf("parse links: %w", err)
		}
		for i := range msgs {
			switch msgs[i].Header.Type {
			case unix.NLMSG_DONE:
				return out, nil
			case unix.NLMSG_ERROR:
				return nil, errors.New("the kernel refused to list links")
			case unix.RTM_NEWLINK:
				l, err := parseLink(&msgs[i])
				if err != nil {
					return nil, err
				}
				out = append(out, l)
			}
		}
	}
}

// parseLink takes name and rtnl_link_stats64 out of a message.
func parseLink(m *syscall.NetlinkMessage) (Link, error) {
	var l Link
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return l, fmt.Errorf("parse link: %w", err)
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.IFLA_IFNAME:
			l.Name = strings.TrimRight(string(a.Value), "\x00")
		case a.Attr.Type == unix.IFLA_STATS64 && len(a.Value) >= 8*8:
			v := func(i int) uint64 { return binary.NativeEndian.Uint64(a.Value[8*i:]) }
			l.RxPackets, l.TxPackets, l.RxBytes, l.TxBytes = v(0), v(1), v(2), v(3)
			l.RxErrors, l.TxErrors, l.RxDropped, l.TxDropped = v(4), v(5), v(6), v(7)
		}
	}
	return l, nil
}
