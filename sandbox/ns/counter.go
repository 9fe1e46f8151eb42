package ns

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"

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

// Counter reads the interfaces of one network namespace. It keeps /proc/net/dev open (proc_pid_net(5)), which shows the namespace
// it was opened in: a reading is one system call, takes no thread and no setns, and no lock that others hold long. (An rtnetlink
// dump waits for the RTNL lock, that of the whole machine, which whoever makes or removes a network holds for tens of
// milliseconds.) The open file keeps the namespace alive until Close.
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
		return nil, fmt.Errorf("interfaces of %s: %w", path, r.err)
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
	return unix.Open("/proc/thread-self/net/dev", unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// Close gives the file back. A counter that is closed reads nothing.
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

// ReadBuffer is what Read wants: room for some thirty interfaces. With more, Read makes room of its own.
const ReadBuffer = 4 << 10

// Links is Read with a buffer of its own.
func (c *Counter) Links() ([]Link, error) { return c.Read(make([]byte, ReadBuffer)) }

// Read lists the interfaces. buf is scratch space of ReadBuffer bytes.
func (c *Counter) Read(buf []byte) ([]Link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil, errors.New("counter is closed")
	}
	text, err := readAll(c.fd, buf)
	if err != nil {
		return nil, fmt.Errorf("read interfaces: %w", err)
	}
	return parseLinks(text), nil
}

// readAll reads the file from its beginning. The kernel gives at most a page or so at a time, whole lines only.
func readAll(fd int, buf []byte) ([]byte, error) {
	n := 0
	for {
		if n == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
		got, err := unix.Pread(fd, buf[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		n += got
		if got == 0 || n < 2<<10 { // a short answer is all there is
			return buf[:n], nil
		}
	}
}

// parseLinks takes apart the two lines of head and one "name: 8 numbers received, 8 sent" for each interface.
func parseLinks(text []byte) []Link {
	var out []Link
	for range 2 {
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		// Names have no colons, except those of aliases made by very old programs.
		colon := bytes.LastIndexByte(line, ':')
		if colon < 0 {
			continue
		}
		var v [16]uint64
		n, digits := 0, line[colon+1:]
		for i := 0; i < len(digits) && n < len(v); {
			if digits[i] == ' ' {
				i++
				continue
			}
			for ; i < len(digits) && digits[i] >= '0' && digits[i] <= '9'; i++ {
				v[n] = v[n]*10 + uint64(digits[i]-'0')
			}
			if n++; i < len(digits) && digits[i] != ' ' {
				n = 0
				break
			}
		}
		if n < 12 {
			continue
		}
		out = append(out, Link{
			Name:    string(bytes.TrimLeft(line[:colon], " ")),
			RxBytes: v[0], RxPackets: v[1], RxErrors: v[2], RxDropped: v[3],
			TxBytes: v[8], TxPackets: v[9], TxErrors: v[10], TxDropped: v[11],
		})
	}
	return out
}
